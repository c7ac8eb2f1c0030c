"""RLOO (Ahmadian et al. 2024) by TRL: REINFORCE, each response against the mean reward of the others to its prompt.

Whole responses are the actions: the reward less `kl_coef` times the log ratio to the base policy, summed over the response;
the clipped ratio is the response's, too, which leaves the clip range after few steps. So `num_iterations` and
`num_mini_batches` are better small.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import RLOOConfig as Arguments
from trl import RLOOTrainer

from suite.baselines.group_relative import Hooks, train_groups
from suite.baselines.interface import Training, TrainingTask
from suite.baselines.updates import resumable
from suite.config.baselines import RLOOConfig


class Trainer(Hooks, RLOOTrainer):
    """TRL's trainer with the suite's roll-outs."""

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> Any:
        return self.drawn(prompt_ids)


def train(task: TrainingTask) -> Training:
    """Train a copy of the policy with TRL's RLOO, from the newest checkpoint in `task.folder` on."""
    return resumable(task, _train)


def _train(task: TrainingTask, resume: Path | None) -> None:
    assert isinstance(task.config, RLOOConfig)
    train_groups(task, resume, Trainer, Arguments, normalize_advantages=task.config.normalize_advantages)
