"""Costs against the real calls: torch's own counter, a counter of tokens, and by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from bon import generate_candidates
from bon.intervals import Interval
from suite.baselines.interface import train
from suite.config.baselines import BonSFTConfig, GRPOConfig, PPOConfig, RLOOConfig
from suite.config.run import SamplingConfig
from suite.metrics.cost import Costs, break_even, request_flops, request_reward_tokens
from suite.metrics.vocabulary import PROXY_TOKENS
from suite.models.flops import FlopMeter, flops_per_token, scored_tokens
from suite.models.rewards import FunctionReward, Judge
from suite.pools.maker import PoolMaker


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)).eval()


def test_flops_of_a_token_by_hand(model):
    # A block of width 16: attention 16 x 48 and 16 x 16, MLP 16 x 64 and 64 x 16; the output layer 97 x 16.
    assert flops_per_token(model) == 2 * (2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 97 * 16)


def products_by_torch(call):
    """Matrix products of weights, as torch counts them; the batched products of attention left out."""
    with FlopCounterMode(display=False) as counter:
        call()
    return sum(
        flops for op, flops in counter.get_flop_counts()["Global"].items() if "bmm" not in str(op) and "scaled" not in str(op)
    )


def test_the_meter_agrees_with_torch_forward(model):
    ids = torch.randint(0, 97, (3, 11))

    def forward():
        with torch.no_grad():
            model(input_ids=ids)

    with FlopMeter([model]) as meter:
        forward()
    assert meter.flops == products_by_torch(forward) == 33 * flops_per_token(model)


def test_the_meter_agrees_with_torch_in_training(model):
    ids = torch.randint(0, 97, (3, 11))

    def step():
        model(input_ids=ids).logits.sum().backward()

    with FlopMeter([model]) as meter:
        step()
    assert meter.flops == pytest.approx(products_by_torch(step), rel=1e-9)
    assert meter.flops == 3 * 33 * flops_per_token(model)
    model.zero_grad()


def test_a_shared_module_counts_once_a_call_and_a_closed_meter_counts_nothing(model):
    ids = torch.randint(0, 97, (1, 4))
    with torch.no_grad(), FlopMeter([model, model]) as meter:
        model(input_ids=ids)
        assert meter.lap() == 4 * flops_per_token(model)
        assert meter.lap() == 0
    model(input_ids=ids)
    assert meter.flops == 0


def test_a_request_costs_what_its_call_does(model, policy, judges):
    # Responses that never end, prompts of one length: nothing is padded, so the real calls do what the formula says.
    prompts = [[5, 6, 7], [8, 9, 10]]
    proxy = judges["proxy"].reward
    for n in (1, 4):
        with FlopMeter([policy.model]) as drawing:
            pool = generate_candidates(policy.model, policy.tokenizer, prompts, n, seed=0, max_new_tokens=6, min_new_tokens=6)
        assert (pool.lengths == 6).all()
        unread = pool.with_scores(**{PROXY_TOKENS: np.zeros((2, n))})
        expected = request_flops(unread, policy.model, proxy.model)[:, n - 1].sum()
        # The output layer reads the prompt's last token alone, where the formula has it read all three.
        head = 2 * policy.model.get_output_embeddings().weight.numel()
        assert drawing.flops == expected - 2 * 2 * head
    texts = [text for row in pool.full_texts for text in row]
    with FlopMeter([proxy.model]) as scoring:
        for text in texts:
            proxy([text])
    counted = pool.with_scores(**{PROXY_TOKENS: scored_tokens(pool, proxy)})
    assert scoring.flops == request_flops(counted, policy.model, proxy.model)[:, 3].sum() - expected


@pytest.fixture
def read(judges):
    """[tokens, padding left out] of every forward pass of the proxy."""
    passes = []

    def note(_module, _inputs, inputs):
        passes.append(int(inputs["attention_mask"].sum()))

    handle = judges["proxy"].reward.model.register_forward_pre_hook(note, with_kwargs=True)
    yield passes
    handle.remove()


def test_a_request_is_charged_for_what_the_reward_model_reads(policy, judges, prompts, read, tmp_path):
    made = PoolMaker(tmp_path, policy, {"proxy": judges["proxy"]}, SamplingConfig(max_new_tokens=6), prompts[:5])
    pool = made.pool(policy, 4, seed=0)
    assert sum(read) == pool.scores[PROXY_TOKENS].sum()
    tokens = request_reward_tokens(pool)
    assert tokens[:, 0].tolist() == [0] * 5  # one draw is not scored
    assert tokens[:, 3].sum() == sum(read)
    read.clear()
    for n in (2, 3):  # on average over which n of the four are drawn
        counts = []
        for subset in itertools.combinations(range(4), n):
            read.clear()
            judges["proxy"].reward([pool.full_texts[p][c] for p in range(5) for c in subset])
            counts.append(sum(read))
        assert tokens[:, n - 1].sum() == pytest.approx(np.mean(counts))


def test_a_function_reads_no_tokens(policy, prompts, tmp_path):
    judge = Judge(FunctionReward(lambda texts: [len(text) for text in texts], "length"), "length")
    pool = PoolMaker(tmp_path, policy, {"proxy": judge}, SamplingConfig(max_new_tokens=6), prompts[:2]).pool(policy, 3, 0)
    assert request_reward_tokens(pool).tolist() == [[0, 0, 0]] * 2


def test_a_pool_of_before_does_not_say_what_was_read(hand_pool):
    assert request_reward_tokens(hand_pool(np.zeros((2, 3)))) is None


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (PPOConfig, {}),
        (RLOOConfig, {"num_generations": 2}),
        (GRPOConfig, {"num_generations": 2, "num_iterations": 2}),
        (BonSFTConfig, {"num_prompts": 8, "best_of": 4}),
    ],
)
def test_training_is_charged_for_what_the_reward_model_reads(training_task, read, tmp_path, kind, settings):
    training = train(training_task(kind, tmp_path / "training", **settings))
    assert training.reward_tokens == sum(row["reward_tokens"] for row in training.log) == sum(read) > 0
    again = train(training_task(kind, tmp_path / "training", **settings))
    assert again.reused
    assert again.reward_tokens == training.reward_tokens  # what was paid for in an earlier sitting


def test_one_draw_is_not_scored(hand_pool, policy, judges):
    pool = hand_pool(np.zeros((2, 3)))
    flops = request_flops(pool, policy.model, judges["proxy"].reward.model)
    steps = np.diff(flops, axis=1)
    f, r = flops_per_token(policy.model), flops_per_token(judges["proxy"].reward.model)
    prompt = np.array([len(ids) for ids in pool.prompt_token_ids])
    lengths = pool.lengths.mean(1)
    assert flops[:, 0] == pytest.approx(f * (prompt + lengths - 1))
    assert steps[:, 0] == pytest.approx(f * (lengths - 1) + 2 * r * (prompt + lengths))
    assert steps[:, 1] == pytest.approx(f * (lengths - 1) + r * (prompt + lengths))


def interval(value, low, high):
    return Interval(*(np.asarray(x, dtype=float) for x in (value, low, high)))


def test_break_even_by_hand():
    # Best-of-n costs 10 n, the tuned policy 10: at n = 5 each request saves 40.
    found = break_even(Costs(8000.0, 10.0, 10.0 * np.arange(1, 9)), interval(5, 3, 6))
    assert found.requests.value == pytest.approx(200)
    assert (found.requests.low, found.requests.high) == (pytest.approx(160), pytest.approx(400))
    assert not found.censored


def test_a_policy_that_is_no_better_never_pays():
    found = break_even(Costs(8000.0, 10.0, 10.0 * np.arange(1, 9)), interval(1, 1, 2))
    assert math.isinf(found.requests.value)
    assert found.requests.low == pytest.approx(800)
    assert math.isinf(found.requests.high)


def test_out_of_reach_pays_after_at_most():
    found = break_even(Costs(8000.0, 10.0, 10.0 * np.arange(1, 9)), interval(math.inf, 6, math.inf))
    assert found.censored
    assert found.requests.value == pytest.approx(8000 / 70)
    assert found.requests.high == pytest.approx(160)
