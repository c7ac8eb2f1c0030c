"""Costs against the real calls: torch's own counter, a counter of tokens, and by hand."""

import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from bon import generate_candidates
from bon.intervals import Interval
from suite.cost import Costs, FlopMeter, break_even, flops_per_token, request_flops


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
        expected = request_flops(pool, policy.model, proxy.model, np.zeros((2, n)))[:, n - 1].sum()
        # The output layer reads the prompt's last token alone, where the formula has it read all three.
        head = 2 * policy.model.get_output_embeddings().weight.numel()
        assert drawing.flops == expected - 2 * 2 * head
    texts = [text for row in pool.full_texts for text in row]
    counted = np.array([len(proxy.tokenizer(text)["input_ids"]) for text in texts]).reshape(2, 4)
    with FlopMeter([proxy.model]) as scoring:
        for text in texts:
            proxy([text])
    with_scores = request_flops(pool, policy.model, proxy.model, counted)[:, 3].sum()
    assert scoring.flops == with_scores - expected


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
