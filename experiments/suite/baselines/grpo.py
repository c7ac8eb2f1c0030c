"""GRPO (Shao et al. 2024) by TRL: each response against the mean reward of its prompt, in standard deviations, token by token.

The KL to the base policy is a term of the loss and a mean per token (Schulman's k3 estimator); `kl_coef` weighs it against
advantages of about 1, so it is no number to compare with the `kl_coef` of PPO and RLOO. The loss is TRL's default, `dapo`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import GRPOConfig as Arguments
from trl import GRPOTrainer

from suite.baselines.group_relative import Hooks, train_groups
from suite.baselines.interface import Training, TrainingTask
from suite.baselines.updates import resumable
from suite.config.baselines import GRPOConfig


class Trainer(Hooks, GRPOTrainer):
    """TRL's trainer with the suite's roll-outs."""

    def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
        return self.drawn(prompt_ids), None


def train(task: TrainingTask) -> Training:
    """Train a copy of the policy with TRL's GRPO, from the newest checkpoint in `task.folder` on."""
    return resumable(task, _train)


def _train(task: TrainingTask, resume: Path | None) -> None:
    assert isinstance(task.config, GRPOConfig)
    train_groups(task, resume, Trainer, Arguments, scale_rewards=task.config.scale_rewards)
