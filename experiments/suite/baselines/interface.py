"""Ways to train a policy against the proxy reward, behind one interface: prompts and a reward in, checkpoints out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suite.config.baselines import TRAINERS, BaselineConfig
from suite.config.run import SamplingConfig
from suite.models.policies import Policy
from suite.models.rewards import Judge


@dataclass(frozen=True)
class TrainingTask:
    """Input of every baseline.

    Attributes:
        config: its settings.
        sampling: temperature and length of its roll-outs, the same as in the evaluation.
        policy: where it starts, and its reference; never modified.
        proxy: the reward it may see.
        prompts: token ids of the training prompts (never evaluation prompts).
        seed: two runs with one seed are identical.
        folder: where it keeps checkpoints and log; the same folder again means: go on from there.
        on_update: called with the whole log after every update.
    """

    config: BaselineConfig
    sampling: SamplingConfig
    policy: Policy
    proxy: Judge
    prompts: Sequence[Sequence[int]]
    seed: int
    folder: Path
    on_update: Callable[[list[dict[str, Any]]], None] | None = None


@dataclass(frozen=True)
class Training:
    """Result of a baseline.

    Attributes:
        checkpoints: update -> folder of the policy after it; the last is the result.
        log: one dictionary an update, in TRL's names.
        tokens: response tokens drawn in training.
        reward_tokens: tokens of prompts and responses that the proxy read in training.
        flops: of the matrix products of all models in training, as `suite.metrics.cost` counts them.
        seconds: spent in training, over all sittings.
        reused: whether nothing had to be trained.
        measured: whether the four numbers above are known: nobody knows what a published policy took.
    """

    checkpoints: dict[int, Path]
    log: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    reward_tokens: int = 0
    flops: int = 0
    seconds: float = 0.0
    reused: bool = False
    measured: bool = True


def train(task: TrainingTask) -> Training:
    """Train the baseline that `task.config.name` names.

    Raises:
        KeyError: it names none.
        UserError: the folder holds checkpoints of another training.
    """
    if task.config.name not in TRAINERS:
        raise KeyError(task.config.name)
    return importlib.import_module(TRAINERS[task.config.name]).train(task)
