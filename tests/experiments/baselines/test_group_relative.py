"""RLOO and GRPO: canaries for the pinned trainers, and the promises of PPO: roll-outs, rewards, seeds, resuming, budget."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from training_checks import even_tokens, generators, numbers, same_weights, weights, words

from suite.baselines import grpo, rloo, rollouts
from suite.baselines.group_relative import Hooks
from suite.baselines.interface import train
from suite.config.baselines import GRPOConfig, PPOConfig, RLOOConfig
from suite.models.policies import load_checkpoint
from suite.runtime.errors import UserError

KINDS = {"rloo": (RLOOConfig, rloo.Trainer), "grpo": (GRPOConfig, grpo.Trainer)}


@pytest.fixture(scope="module", params=KINDS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def make_task(training_task, name):
    """make_task(folder, seed=0, proxy=..., prompts=..., temperature=1.0, **settings) -> a task, two responses a prompt."""

    def made(folder, **settings):
        return training_task(KINDS[name][0], folder, **{"checkpoint_every": 1, "num_generations": 2, **settings})

    return made


@pytest.fixture(scope="module")
def two_updates(make_task, tmp_path_factory):
    return train(make_task(tmp_path_factory.mktemp("canary")))


@pytest.fixture
def scored(monkeypatch, name):
    """[what the trainer computed of the responses of an update, in the order in which they were drawn]."""
    seen = []
    trainer = KINDS[name][1]
    real = trainer._generate_and_score_completions

    def noted(self, inputs):
        seen.append(real(self, inputs))
        return seen[-1]

    monkeypatch.setattr(trainer, "_generate_and_score_completions", noted)
    return seen


def test_two_updates(two_updates):
    first, second = two_updates.log
    assert [first["update"], second["update"]] == [1, 2]
    assert abs(first["objective/kl"]) < 1e-4
    assert abs(second["objective/kl"]) > 1e-4
    for row in two_updates.log:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, int | float))
        assert sum(row["reward/histogram"]["counts"]) == 8
        edges = row["reward/histogram"]["edges"]
        assert edges[0] <= row["reward/quantile_10"] <= row["reward"] <= edges[-1]
        assert row["objective/scores"] == row["reward"]
        assert row["tokens"] == round(8 * row["completions/mean_length"])
        assert row["objective/kl"] == pytest.approx(row["kl"] * row["tokens"] / 8)
        assert row["policy/grad_norm"] > 0
    assert [row["episode"] for row in two_updates.log] == [8, 16]
    assert two_updates.tokens == sum(row["tokens"] for row in two_updates.log)
    assert first["lr"] > second["lr"] > 0


def test_checkpoints_are_as_those_of_ppo(two_updates, policy):
    assert list(two_updates.checkpoints) == [1, 2]
    for update, folder in two_updates.checkpoints.items():
        names = {path.name for path in folder.iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json", "updates.jsonl", "task.json"} <= names
        assert ("optimizer.pt" in names) == (update == 2)
        assert len((folder / "updates.jsonl").read_text().splitlines()) == update
    assert not same_weights(load_checkpoint(policy, two_updates.checkpoints[1]).model.state_dict(), weights(two_updates))


def by_hand(model, prompt, response, temperature):
    """Log-probabilities of the tokens of one response behind one prompt, without padding anywhere."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1)[range(len(response)), response]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_responses_are_scored_as_they_were_drawn_whatever_the_padding(make_task, policy, name, scored, tmp_path, temperature):
    train(make_task(tmp_path, updates=1, checkpoint_every=1, temperature=temperature))
    (batch,) = scored
    assert len(set(batch["prompt_mask"].sum(1).tolist())) > 1  # prompts of differing lengths
    for row in range(8):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        inside = batch["completion_mask"][row].bool()
        expected = by_hand(policy.model, prompt, batch["completion_ids"][row][inside].tolist(), temperature)
        if name == "rloo":
            assert float(batch["old_logps"][row]) == pytest.approx(float(expected.sum()), abs=1e-4)
        else:
            assert batch["ref_per_token_logps"][row][inside].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("generations", [2, 4])
def test_advantages_are_those_of_the_papers(make_task, name, scored, tmp_path, generations):
    rewards = []

    def reward(texts):
        rewards.append(np.array([len(text) % 7 + 0.1 * text.count("e") for text in texts]))
        return rewards[-1]

    train(make_task(tmp_path, updates=1, num_generations=generations, proxy=words(reward)))
    groups = rewards[0].reshape(-1, generations)
    advantages = scored[0]["advantages"].numpy().reshape(-1, generations)
    assert np.abs(advantages).max() > 0.1
    assert advantages.sum(1) == pytest.approx(np.zeros(len(groups)), abs=1e-3)
    if name == "rloo":  # each against the mean of the others
        others = [[np.delete(group, i).mean() for i in range(generations)] for group in groups]
        assert advantages == pytest.approx(groups - np.array(others), abs=1e-3)
    else:
        assert advantages == pytest.approx(
            (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4), abs=1e-3
        )


def test_one_seed_gives_one_result(two_updates, make_task, tmp_path):
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    before = generators()
    again = train(make_task(tmp_path))
    assert generators() == before
    assert numbers(again.log) == numbers(two_updates.log)
    assert same_weights(weights(again), weights(two_updates))


def test_another_seed_gives_another(two_updates, make_task, tmp_path):
    other = train(make_task(tmp_path, seed=1))
    assert other.log[0]["reward"] != two_updates.log[0]["reward"]
    assert not same_weights(weights(other), weights(two_updates))


def test_interrupted_and_resumed_equals_uninterrupted(make_task, tmp_path, monkeypatch):
    settings = {"updates": 4, "checkpoint_every": 2, "num_mini_batches": 2, "num_iterations": 2}
    whole = train(make_task(tmp_path / "whole", **settings))
    with monkeypatch.context() as patch:
        real = rollouts.RollOuts.draw

        def interrupted(self, *arguments):
            if self.update == 4:
                raise KeyboardInterrupt
            return real(self, *arguments)

        patch.setattr(rollouts.RollOuts, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(make_task(tmp_path / "cut", **settings))
    assert [path.name for path in sorted((tmp_path / "cut").iterdir())] == ["checkpoint-000001", "checkpoint-000002"]

    resumed = train(make_task(tmp_path / "cut", **settings))
    assert numbers(resumed.log) == numbers(whole.log)
    for update in (2, 4):
        assert same_weights(weights(resumed, update), weights(whole, update))


def test_the_second_time_nothing_is_trained(two_updates, make_task, monkeypatch):
    monkeypatch.setattr(Hooks, "drawn", lambda *_: pytest.fail("trained again"))
    again = train(make_task(two_updates.checkpoints[2].parent))
    assert again.reused
    assert again.log == two_updates.log


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"learning_rate": 1e-5}, r"baseline\.learning_rate=0\.0003 there, baseline\.learning_rate=1e-05 here"),
        ({"seed": 3}, "seed=0 there, seed=3 here"),
        ({"temperature": 0.5}, r"sampling\.temperature=1\.0 there"),
        ({"updates": 3}, r"baseline\.updates=2 there"),
    ],
)
def test_a_folder_of_another_training_is_refused(two_updates, make_task, changed, told):
    with pytest.raises(UserError, match=rf"checkpoint-00000\d is of another training \(.*{told}.*cache=FOLDER"):
        train(make_task(two_updates.checkpoints[2].parent, **changed))


def test_what_only_the_evaluation_reads_may_change(two_updates, make_task):
    assert train(make_task(two_updates.checkpoints[2].parent, num_candidates=3)).reused


def test_nobody_elses_model_moves(make_task, tmp_path, policy):
    before = {key: value.clone() for key, value in policy.model.state_dict().items()}
    train(make_task(tmp_path, updates=1))
    assert same_weights(policy.model.state_dict(), before)
    assert not policy.model.training
    assert not policy.model._forward_pre_hooks
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_gradients_are_clipped(make_task, tmp_path, stepped):
    log = train(make_task(tmp_path, max_grad_norm=0.01, num_mini_batches=2, num_iterations=3)).log
    assert len(stepped) == 2 * 2 * 3  # updates x mini-batches x iterations
    assert max(stepped) <= 0.01 * (1 + 1e-4)
    assert min(row["policy/grad_norm"] for row in log) > 0.02  # the log keeps the norms as they were before


def test_groups_are_whole_permutations_of_the_training_prompts(make_task, training_prompts, policy, tmp_path):
    seen = []

    def reward(texts):
        seen.append(list(texts))
        return [0.0] * len(texts)

    training = train(make_task(tmp_path, updates=6, checkpoint_every=6, batch_size=16, proxy=words(reward)))
    known = sorted(policy.tokenizer.decode(ids) for ids in training_prompts)
    assert [len(texts) for texts in seen] == [16] * 6  # the budget: updates x batch_size
    assert not any("<|" in text for text in itertools.chain(*seen))
    orders = []
    for epoch in (seen[:3], seen[3:]):
        prompts = [max((p for p in known if text.startswith(p)), key=len) for text in itertools.chain(*epoch)]
        assert prompts[::2] == prompts[1::2]
        assert sorted(prompts[::2]) == known
        orders.append(prompts)
    assert orders[0] != orders[1]
    assert training.log[0]["frac_reward_zero_std"] == 1.0


def test_a_reward_that_breaks_is_not_swallowed(make_task, tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        train(make_task(tmp_path, updates=1, proxy=words(lambda texts: [math.nan] * len(texts))))


EASY = {"updates": 12, "checkpoint_every": 12, "batch_size": 48, "num_generations": 4}


def test_it_learns(make_task, policy, tmp_path):
    log = train(make_task(tmp_path, learning_rate=2e-2, kl_coef=0.0, proxy=even_tokens(policy.tokenizer), **EASY)).log
    scores = [row["objective/scores"] for row in log]
    assert np.mean(scores[-4:]) > np.mean(scores[:4]) + 0.4
    assert "objective/kl" not in log[-1]  # without a penalty there is no reference


def test_a_heavy_kl_penalty_holds_it_to_the_base_policy(make_task, policy, tmp_path):
    proxy, kl = even_tokens(policy.tokenizer), {}
    for kl_coef in (0.001, 100.0):
        task = make_task(tmp_path / str(kl_coef), learning_rate=1e-3, kl_coef=kl_coef, proxy=proxy, **EASY)
        kl[kl_coef] = np.mean([row["objective/kl"] for row in train(task).log[-4:]])
    assert kl[0.001] > 0.2
    assert abs(kl[100.0]) < 0.1


def test_ppo_and_these_draw_the_same_number_of_responses_unless_told_otherwise(name):
    own, ppo = KINDS[name][0](), PPOConfig()
    assert (own.updates, own.batch_size, own.checkpoint_every) == (ppo.updates, ppo.batch_size, ppo.checkpoint_every)
