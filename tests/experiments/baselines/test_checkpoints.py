"""Which updates leave a checkpoint, and whose checkpoints are gone on from."""

import dataclasses

import pytest

from suite.baselines.checkpoints import check_same_task, checkpoint_updates
from suite.baselines.interface import train
from suite.config.baselines import PPOConfig
from suite.runtime.errors import UserError


@pytest.mark.parametrize(
    ("updates", "every", "expected"),
    [
        (32, 8, [1, 2, 4, 8, 16, 24, 32]),
        (30, 8, [1, 2, 4, 8, 16, 24, 30]),
        (4, 1, [1, 2, 3, 4]),
        (1, 8, [1]),
        (3, 100, [1, 2, 3]),
        (20, 20, [1, 2, 4, 8, 16, 20]),
    ],
)
def test_early_regular_and_last(updates, every, expected):
    assert checkpoint_updates(PPOConfig(name="ppo", updates=updates, checkpoint_every=every)) == expected


def test_a_folder_of_another_training_names_every_difference(training_task, tmp_path):
    made = training_task(PPOConfig, tmp_path / "cache", updates=1)
    folder = train(made).checkpoints[1]
    other = dataclasses.replace(
        made, seed=4, config=dataclasses.replace(made.config, learning_rate=1e-4), prompts=made.prompts[:-1]
    )
    with pytest.raises(UserError) as caught:
        check_same_task(folder, other)
    told = str(caught.value)
    assert told.startswith(f"{folder} is of another training (baseline.learning_rate=0.0002 there, ")
    assert "baseline.learning_rate=0.0001 here; prompts=" in told
    assert "; seed=0 there, seed=4 here): " in told
    assert told.endswith(f"choose a new folder with cache=FOLDER, or delete {tmp_path}/cache")
    assert "\n" not in told
    with pytest.raises(UserError, match="is of another training"):
        train(other)


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_text("{"), lambda path: path.write_text("3")]
)
def test_a_checkpoint_that_does_not_say_what_it_is_of(training_task, tmp_path, damage):
    made = training_task(PPOConfig, tmp_path, updates=1)
    (tmp_path / "checkpoint-000001").mkdir()
    (tmp_path / "checkpoint-000001" / "task.json").write_text("")
    damage(tmp_path / "checkpoint-000001" / "task.json")
    with pytest.raises(UserError, match=r"task\.json cannot be read \(.*\): choose a new folder with cache=FOLDER, or delete"):
        train(made)
