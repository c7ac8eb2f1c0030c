"""A canary for the pinned trainer, and what the adapter promises: repeatable, resumable, clipped, and alone with its RNG."""

import copy
import dataclasses
import gc
import itertools
import json
import logging
import math
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_checks import numbers, same_weights, weights, words

from suite.baselines import ppo, rollouts
from suite.baselines.interface import train
from suite.baselines.trl_adapters import Critic, critic_kind
from suite.config.baselines import PPOConfig
from suite.models.flops import flops_per_token
from suite.models.policies import load_checkpoint
from suite.runtime.errors import UserError


@pytest.fixture(scope="module")
def make_task(training_task):
    """make_task(folder, seed=0, proxy=..., prompts=..., temperature=1.0, **settings of PPO) -> a small task."""

    def made(folder, **settings):
        small = {"checkpoint_every": 1, "num_ppo_epochs": 2, "num_mini_batches": 1}
        return training_task(PPOConfig, folder, **{**small, **settings})

    return made


@pytest.fixture(scope="module")
def two_updates(make_task, tmp_path_factory):
    """The canary: two updates, with everything else that tests only look at."""
    return train(make_task(tmp_path_factory.mktemp("canary")))


def test_the_pinned_trainer_is_there():
    import trl
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__ == "1.12.0"
    assert {"kl_coef", "num_ppo_epochs", "cliprange", "vf_coef", "response_length"} <= set(PPOConfig.__dataclass_fields__)
    assert callable(PPOTrainer)


def test_two_updates(two_updates):
    first, second = two_updates.log
    assert [first["update"], second["update"]] == [1, 2]
    assert abs(first["objective/kl"]) < 1e-4
    for row in two_updates.log:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, int | float))
        assert row["objective/scores"] == pytest.approx(
            row["objective/rlhf_reward"] + PPOConfig().kl_coef * row["objective/kl"], abs=1e-4
        )
        quantiles = [row[f"reward/quantile_{q}"] for q in (10, 25, 50, 75, 90)]
        assert quantiles == sorted(quantiles)
        histogram = row["reward/histogram"]
        assert sum(histogram["counts"]) == 8
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1
        assert 8 <= row["tokens"] <= 8 * 6
        assert row["policy/grad_norm"] > 0
    assert abs(second["objective/kl"]) > 1e-4
    assert [row["episode"] for row in two_updates.log] == [8, 16]
    assert two_updates.tokens == sum(row["tokens"] for row in two_updates.log)
    assert two_updates.flops == sum(row["flops"] for row in two_updates.log) > 0
    assert two_updates.seconds == sum(row["seconds"] for row in two_updates.log) > 0
    assert not two_updates.reused


def test_checkpoints_are_safetensors(two_updates, policy):
    assert list(two_updates.checkpoints) == [1, 2]
    for update, folder in two_updates.checkpoints.items():
        names = {path.name for path in folder.iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json", "updates.jsonl"} <= names
        assert not {name for name in names if name.endswith(".bin")}
        assert len((folder / "updates.jsonl").read_text().splitlines()) == update
        # What is needed to go on is kept for the newest alone.
        assert ({"critic.safetensors", "optimizer.pt"} <= names) == (update == 2)
    tuned = load_checkpoint(policy, two_updates.checkpoints[2])
    assert not same_weights(tuned.model.state_dict(), policy.model.state_dict())
    assert not same_weights(weights(two_updates, 1), weights(two_updates, 2))


def test_the_second_time_nothing_is_trained(two_updates, make_task, monkeypatch):
    monkeypatch.setattr(ppo, "_train", lambda *_: pytest.fail("trained again"))
    again = train(make_task(two_updates.checkpoints[2].parent))
    assert again.reused
    assert again.log == two_updates.log
    assert again.checkpoints == two_updates.checkpoints
    assert (again.tokens, again.seconds) == (two_updates.tokens, two_updates.seconds)


def test_one_seed_gives_one_result(two_updates, make_task, tmp_path):
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    again = train(make_task(tmp_path))
    assert numbers(again.log) == numbers(two_updates.log)
    assert same_weights(weights(again), weights(two_updates))


def test_another_seed_gives_another(two_updates, make_task, tmp_path):
    other = train(make_task(tmp_path, seed=1))
    assert other.log[0]["objective/scores"] != two_updates.log[0]["objective/scores"]
    assert abs(other.log[0]["objective/kl"]) < 1e-4


@pytest.mark.parametrize("temperature", [0.7])
def test_kl_starts_at_zero_at_any_temperature(make_task, tmp_path, temperature):
    log = train(make_task(tmp_path, temperature=temperature, updates=1)).log
    assert abs(log[0]["objective/kl"]) < 1e-4


@pytest.mark.parametrize("critic", ["shared", "own"])
def test_interrupted_and_resumed_equals_uninterrupted(make_task, tmp_path, monkeypatch, critic):
    small = {"updates": 4, "checkpoint_every": 2, "num_mini_batches": 2}
    settings = {**small, "critic": critic, "warmup_updates": 1, "critic_warmup_updates": 1}
    whole = train(make_task(tmp_path / "whole", **settings))

    with monkeypatch.context() as patch:
        real = rollouts.RollOuts.draw

        def interrupted(self, *arguments, **options):
            if self.update == 4:
                raise KeyboardInterrupt
            return real(self, *arguments, **options)

        patch.setattr(rollouts.RollOuts, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(make_task(tmp_path / "cut", **settings))
    kept = [path.name for path in (tmp_path / "cut").iterdir()]
    assert sorted(kept) == ["checkpoint-000001", "checkpoint-000002"]
    (tmp_path / "cut" / ".writing-half").mkdir()  # what a power cut leaves

    resumed = train(make_task(tmp_path / "cut", **settings))
    assert numbers(resumed.log) == numbers(whole.log)
    assert list(resumed.checkpoints) == list(whole.checkpoints) == [1, 2, 4]
    for update in (2, 4):
        assert same_weights(weights(resumed, update), weights(whole, update))
    critics = [load_file(t.checkpoints[4] / "critic.safetensors") for t in (resumed, whole)]
    assert same_weights(*critics)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [f"checkpoint-{update:06d}" for update in (1, 2, 4)]


def test_without_what_it_takes_to_go_on_a_stopped_training_begins_anew(two_updates, make_task, tmp_path):
    light = train(make_task(tmp_path, resumable=False))
    assert not {path.name for path in tmp_path.rglob("*")} & {"critic.safetensors", "optimizer.pt"}
    assert numbers(light.log) == numbers(two_updates.log)
    assert same_weights(weights(light), weights(two_updates))
    assert train(make_task(tmp_path, resumable=False)).reused
    shutil.rmtree(light.checkpoints[2])
    again = train(make_task(tmp_path, resumable=False))
    assert not again.reused
    assert again.log[0]["seconds"] != light.log[0]["seconds"]  # the first update too is run again
    assert numbers(again.log) == numbers(light.log)


def test_both_critics_start_from_the_same_roll_outs(two_updates, make_task, tmp_path):
    shared = train(make_task(tmp_path, critic="shared"))
    for name in ("objective/scores", "objective/kl", "objective/entropy", "reward/quantile_50", "tokens"):
        assert shared.log[0][name] == pytest.approx(two_updates.log[0][name], abs=1e-5), name
    assert set(load_file(shared.checkpoints[2] / "critic.safetensors")) == {"score.weight"}  # the trunk is the policy's
    own = load_file(two_updates.checkpoints[2] / "critic.safetensors")
    assert "score.weight" in own
    assert len(own) > 10
    assert not same_weights(weights(shared), weights(two_updates))


def test_nobody_elses_state_moves(make_task, tmp_path, policy):
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)

    def state():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return random.getstate(), tuple(map(str, numpy_state[1])), numpy_state[2:], torch.get_rng_state().tolist()

    def surroundings():
        return gc.get_freeze_count(), logging.getLogger("accelerate").level, gc.isenabled()

    before, around, model = state(), surroundings(), copy.deepcopy(policy.model.state_dict())
    forward = policy.model.forward
    train(make_task(tmp_path, updates=1))
    assert state() == before
    assert surroundings() == around
    assert same_weights(policy.model.state_dict(), model)
    assert policy.model.forward == forward
    assert not policy.model.training
    assert all(parameter.grad is None for parameter in policy.model.parameters())


@pytest.mark.parametrize("critic", ["shared", "own"])
def test_gradients_are_clipped(make_task, tmp_path, stepped, critic):
    log = train(make_task(tmp_path, max_grad_norm=0.01, critic=critic)).log
    assert len(stepped) == 2 * 2  # updates x epochs
    assert max(stepped) <= 0.01 * (1 + 1e-4)
    # The log keeps the norms as they were before.
    assert min(row["policy/grad_norm"] for row in log) > 0.02


def test_gradients_within_the_limit_are_left_alone(make_task, tmp_path, stepped):
    log = train(make_task(tmp_path, max_grad_norm=1e6)).log
    for index, row in enumerate(log):
        assert row["policy/grad_norm"] == pytest.approx(np.mean(stepped[2 * index : 2 * index + 2]), rel=1e-4)


def test_a_vanishing_limit_stops_learning(make_task, tmp_path, policy):
    # Adam divides a gradient of 1e-14 by its epsilon of 1e-8: only where clipping works do the weights stay.
    still = weights(train(make_task(tmp_path / "still", max_grad_norm=1e-12)))
    free = weights(train(make_task(tmp_path / "free", max_grad_norm=1.0)))
    start = policy.model.state_dict()
    moved = [max(float((w[name] - start[name]).abs().max()) for name in w) for w in (still, free)]
    assert moved[0] < 1e-6
    assert moved[1] > 1e-4


@pytest.mark.parametrize(
    ("schedule", "warmup", "shares"),
    [
        ("linear", 0, [1, 3 / 4, 2 / 4, 1 / 4]),
        ("linear", 2, [1 / 2, 1, 1, 1 / 2]),
        ("constant", 9, [1 / 2, 1, 1, 1]),  # a warm-up takes half of the updates at most
        ("cosine", 0, [1, (1 + math.sqrt(1 / 2)) / 2, 1 / 2, (1 - math.sqrt(1 / 2)) / 2]),
    ],
)
def test_the_learning_rate_follows_its_schedule(make_task, tmp_path, schedule, warmup, shares):
    settings = {"schedule": schedule, "warmup_updates": warmup, "learning_rate": 1e-4}
    log = train(make_task(tmp_path, updates=4, checkpoint_every=4, **settings)).log
    assert [row["lr"] for row in log] == pytest.approx([1e-4 * share for share in shares])


def test_lam_moves_in_a_straight_line_and_takes_part(make_task, tmp_path):
    settings = {"updates": 3, "lam": 0.2}
    still = train(make_task(tmp_path / "still", **settings))
    moved = train(make_task(tmp_path / "moved", lam_end=1.0, **settings))
    assert [row["lam"] for row in still.log] == [0.2, 0.2, 0.2]
    assert [row["lam"] for row in moved.log] == pytest.approx([0.2, 0.6, 1.0])
    assert same_weights(weights(still, 1), weights(moved, 1))
    assert not same_weights(weights(still, 2), weights(moved, 2))


def test_the_policy_stands_still_while_the_critic_learns(make_task, policy, tmp_path):
    settings = {"updates": 4, "critic_warmup_updates": 2, "critic_learning_rate": 1e-3, "critic": "own"}
    training = train(make_task(tmp_path, **settings))
    start = policy.model.state_dict()
    assert [row["lr"] == 0 for row in training.log] == [True, True, False, False]
    # Checkpoints hold weights in the precision they are trained in.
    for update, moved in ((1, False), (2, False), (3, True)):
        found = load_checkpoint(policy, training.checkpoints[update]).model.state_dict()
        assert same_weights(found, start) != moved
    assert training.log[1]["loss/value_avg"] != training.log[0]["loss/value_avg"]


def test_the_proxy_is_the_critics_start(make_task, policy, tmp_path, judges):
    proxy = judges["proxy"]
    task = make_task(tmp_path, proxy=proxy)
    critic = Critic(policy.model, "reward", proxy.reward)
    assert critic_kind(task, "auto") == "frozen"
    ids = torch.tensor([policy.tokenizer("a good film")["input_ids"]])
    with torch.no_grad():
        value = critic.score(critic.trunk(input_ids=ids).last_hidden_state)[0, -1].item()
    # With a single output the reward of a text is its value at the text's last token.
    assert value == pytest.approx(proxy.reward(["a good film"])[0], abs=1e-5)
    assert all(parameter.requires_grad for parameter in critic.parameters())
    before = copy.deepcopy(proxy.reward.model.state_dict())
    train(task)
    assert same_weights(proxy.reward.model.state_dict(), before)  # the critic is a copy


def test_a_frozen_critic_reads_each_response_once(make_task, policy, tmp_path, judges, monkeypatch):
    task = make_task(tmp_path, critic="frozen", num_mini_batches=2, updates=2)
    read = []

    real = Critic.__init__

    def made(self, *arguments):
        real(self, *arguments)
        count = lambda _module, _inputs, kwargs, _output: read.append(len(kwargs["input_ids"]))  # noqa: E731
        self.reader.register_forward_hook(count, with_kwargs=True)

    with monkeypatch.context() as patch:
        patch.setattr(Critic, "__init__", made)
        training = train(task)
    assert sum(read) == 2 * 8  # two epochs of two mini-batches an update, and never again
    assert not same_weights(weights(training, 1), policy.model.state_dict())
    # Values of rows in any order are those of the trunk itself.
    critic = Critic(policy.model, "frozen", judges["proxy"].reward)
    plain = Critic(policy.model, "reward", judges["proxy"].reward)
    ids = torch.tensor([[5, 6, 7], [7, 8, 9], [5, 6, 7]])
    with torch.no_grad():
        critic.trunk(input_ids=ids, output_hidden_states=True)
        again = critic.score(critic.trunk(input_ids=ids[[1, 0]]).hidden_states[-1])
        expected = plain.score(plain.trunk(input_ids=ids[[1, 0]]).last_hidden_state)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)


def test_a_proxy_that_is_no_critic(make_task, tmp_path):
    task = make_task(tmp_path, proxy=words(lambda texts: [0.0] * len(texts)))
    assert critic_kind(task, "auto") == "own"
    with pytest.raises(UserError, match=r"baseline\.critic=reward is not allowed"):
        critic_kind(task, "reward")


def test_batches_are_whole_permutations_of_the_training_prompts(make_task, training_prompts, policy, tmp_path):
    seen = []

    def reward(texts):
        seen.append(texts)
        return [0.0] * len(texts)

    train(make_task(tmp_path, updates=6, checkpoint_every=6, proxy=words(reward)))
    expected = sorted(policy.tokenizer.decode(ids) for ids in training_prompts)
    assert [len(texts) for texts in seen] == [8] * 6
    orders = []
    for epoch in (seen[:3], seen[3:]):
        prompts = []
        for text in itertools.chain(*epoch):
            starts = [prompt for prompt in expected if text.startswith(prompt)]
            prompts.append(max(starts, key=len))
        orders.append(prompts)
        assert sorted(prompts) == expected
    assert orders[0] != orders[1]


def test_the_reward_reads_prompt_and_response_without_padding(make_task, policy, tmp_path):
    seen = []

    def reward(texts):
        seen.extend(texts)
        return [float(len(text)) for text in texts]

    log = train(make_task(tmp_path, updates=1, proxy=words(reward))).log
    assert not any("<|pad|>" in text or "<|endoftext|>" in text for text in seen)
    assert log[0]["objective/scores"] == pytest.approx(np.mean([len(text) for text in seen]))


def test_one_epoch_of_one_minibatch_has_no_variance_and_no_warning(make_task, tmp_path):
    (row,) = train(make_task(tmp_path, updates=1, num_ppo_epochs=1)).log
    assert "val/ratio_var" not in row
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, int | float))


@pytest.mark.parametrize("critic", ["shared", "own"])
def test_flops_of_an_update_by_counting_its_passes(make_task, policy, tmp_path, critic):
    # Nothing ends before its six tokens, so every pass is of the whole width.
    task = make_task(
        tmp_path, updates=1, proxy=words(lambda texts: [0.0] * len(texts)), prompts=[[5, 6, 7, 8]] * 8,
        num_ppo_epochs=3, critic=critic,
    )  # fmt: skip
    (row,) = train(task).log
    assert row["tokens"] == 8 * 6
    head = 2 * policy.model.get_output_embeddings().weight.numel()
    trunk = flops_per_token(policy.model) - head
    value = 2 * policy.model.config.hidden_size
    width, rows = 4 + 6, 8
    drawing = rows * ((4 + 5) * trunk + 6 * head)  # the prompt once, then five of the six tokens
    reference = rows * width * (trunk + head)
    values = rows * width * (trunk + value)
    epoch = 3 * rows * width * (trunk + head + value + (0 if critic == "shared" else trunk))
    assert row["flops"] == drawing + reference + values + 3 * epoch


def test_a_reward_that_breaks_is_not_swallowed(make_task, tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        train(make_task(tmp_path, updates=1, proxy=words(lambda texts: [math.nan] * len(texts))))


def test_it_learns(make_task, policy, tmp_path):
    wanted = set(range(0, len(policy.tokenizer), 2))

    def reward(texts):
        ids = policy.tokenizer(texts)["input_ids"]
        return [4.0 * sum(i in wanted for i in row) / max(len(row), 1) for row in ids]

    task = make_task(
        tmp_path, updates=20, checkpoint_every=20, batch_size=24, num_ppo_epochs=4, learning_rate=5e-3, kl_coef=0.01,
        proxy=words(reward),
    )  # fmt: skip
    log = train(task).log
    scores = [row["objective/scores"] for row in log]
    assert np.mean(scores[-4:]) > np.mean(scores[:4]) + 0.3
    assert log[-1]["objective/kl"] > 0.1


def test_the_log_is_a_line_an_update(two_updates):
    lines = (two_updates.checkpoints[2] / "updates.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == two_updates.log


def test_a_task_of_another_kind(make_task, tmp_path):
    task = make_task(tmp_path)
    with pytest.raises(KeyError):
        train(dataclasses.replace(task, config=dataclasses.replace(task.config, name="none")))
