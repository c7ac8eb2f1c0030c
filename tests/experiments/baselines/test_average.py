"""The moving average of a policy: its closed form, in a training and over an interruption, which it does not disturb."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_checks import same_weights, weights

from suite.baselines.average import MovingAverage
from suite.baselines.interface import train
from suite.config.baselines import BonSFTConfig, PPOConfig
from suite.models.line import AVERAGE, averaged

SMALL = {"updates": 4, "epochs": 2, "num_prompts": 16, "best_of": 2, "checkpoint_every": 1}


def test_the_last_counts_most_and_the_start_least(tmp_path):
    policy = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        policy.weight.fill_(8.0)
    average = MovingAverage(policy, 0.5)
    for value in (4.0, 2.0, 1.0):
        policy.weight.data.fill_(value)
        average.update()
    # 8 / 8 + 4 / 8 + 2 / 4 + 1 / 2
    assert average.weights["weight"].item() == 2.5
    average.save(tmp_path)
    again = MovingAverage(policy, 0.5, tmp_path)
    again.update()
    assert again.weights["weight"].item() == 1.75


@pytest.fixture(scope="module")
def trained(training_task, tmp_path_factory):
    return train(training_task(BonSFTConfig, tmp_path_factory.mktemp("averaged"), ema_decay=0.75, **SMALL))


def test_in_a_training_it_is_the_average_of_its_checkpoints_from_the_base_policy_on(trained, policy):
    expected = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    for update in sorted(trained.checkpoints):
        after = weights(trained, update)
        expected = {name: 0.75 * value + 0.25 * after[name] for name, value in expected.items()}
        kept = load_file(trained.checkpoints[update] / AVERAGE)
        assert kept.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(kept[name], value, rtol=1e-5, atol=1e-6)
    with averaged(policy, trained.checkpoints[4]) as opened:
        for name, parameter in opened.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-6)


def test_it_changes_nothing_of_the_training_and_goes_on_after_an_interruption(trained, training_task, tmp_path):
    plain = train(training_task(BonSFTConfig, tmp_path / "plain", **SMALL))
    assert same_weights(weights(plain), weights(trained))
    assert not (plain.checkpoints[4] / AVERAGE).exists()

    def stop(log):
        if len(log) == 3:
            raise KeyboardInterrupt

    task = training_task(BonSFTConfig, tmp_path / "stopped", ema_decay=0.75, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        train(type(task)(**{**vars(task), "on_update": stop}))
    again = train(task)
    assert same_weights(load_file(again.checkpoints[4] / AVERAGE), load_file(trained.checkpoints[4] / AVERAGE))


def test_ppo_has_one_too(training_task, policy, tmp_path):
    found = train(training_task(PPOConfig, tmp_path, ema_decay=0.5, checkpoint_every=1, critic="own"))
    first, last = weights(found, 1), weights(found, 2)
    kept = load_file(found.checkpoints[2] / AVERAGE)
    for name, start in policy.model.named_parameters():
        expected = 0.25 * start.detach() + 0.25 * first[name] + 0.5 * last[name]
        torch.testing.assert_close(kept[name], expected, rtol=1e-5, atol=1e-6)
