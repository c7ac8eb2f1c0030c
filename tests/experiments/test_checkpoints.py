"""Which updates leave a checkpoint."""

import pytest

from suite.baseline_schema import PPOConfig
from suite.baselines.checkpoints import checkpoint_updates


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
