"""Shared parts of every training: update u is the same whoever runs it, in one sitting or in several."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from suite.baselines.checkpoints import check_same_task, checkpoint_folder, checkpoint_updates, read_log
from suite.baselines.interface import Training, TrainingTask
from suite.baselines.streams import ORDER
from suite.config.baselines import RLConfig, TrainedConfig
from suite.metrics.vocabulary import SPENT
from suite.runtime import distributed
from suite.runtime.device import trainers_mix
from suite.runtime.errors import UserError

_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def resumable(task: TrainingTask, go_on: Callable[[TrainingTask, Path | None], None]) -> Training:
    """Train from the newest checkpoint in `task.folder` on, if there is anything left to do.

    Args:
        task: what is trained.
        go_on: trains, from the checkpoint that it is given or from the beginning, and writes the checkpoints.

    Raises:
        UserError: the folder holds checkpoints of another training, or an update does not fit into the GPU's memory.
    """
    config = task.config
    assert isinstance(config, TrainedConfig)
    for leftover in task.folder.glob(".writing-*") if distributed.first() else ():
        shutil.rmtree(leftover, ignore_errors=True)
    for checkpoint in sorted(task.folder.glob("checkpoint-*")):
        check_same_task(checkpoint, task)
    steps = checkpoint_updates(config)
    done = [update for update in steps if _goes_on(checkpoint_folder(task.folder, update), update == config.updates)]
    newest = distributed.as_first(done[-1] if done else 0)
    reused = newest == config.updates
    if not reused:
        try:
            with own_randomness(), trainers_mix(task.policy.model.device, config.precision):
                go_on(task, checkpoint_folder(task.folder, newest) if newest else None)
        except torch.OutOfMemoryError:
            remedy = "make it smaller" + (" or baseline.num_mini_batches larger" if isinstance(config, RLConfig) else "")
            raise UserError(f"baseline.batch_size={config.batch_size} does not fit into the GPU's memory: {remedy}") from None
    log = read_log(checkpoint_folder(task.folder, config.updates))
    return Training(
        checkpoints={update: checkpoint_folder(task.folder, update) for update in steps},
        log=log,
        reused=reused,
        **{name: sum(row[name] for row in log) for name in SPENT},
    )


def _goes_on(checkpoint: Path, last: bool) -> bool:
    """Tell whether there is a checkpoint that training can go on from, or the last one, from which it need not."""
    return (checkpoint / "updates.jsonl").is_file() and (last or (checkpoint / "optimizer.pt").is_file())


def batch(seed: int, update: int, prompts: int, batch_size: int) -> np.ndarray:
    """Indices of the prompts of an update (counted from 1): whole permutations one after another, from (seed, epoch)."""
    wanted = np.arange((update - 1) * batch_size, update * batch_size)
    epochs = {int(e): np.random.default_rng([seed, ORDER, int(e)]).permutation(prompts) for e in set(wanted // prompts)}
    return np.array([epochs[int(w // prompts)][w % prompts] for w in wanted])


def scheduled(optimizer: Any, config: TrainedConfig, first: int, steps: int = 1, standing: int = 0) -> Any:
    """Return the schedule of the learning rate over a training: a rise over `warmup_updates`, then `config.schedule`.

    Args:
        optimizer: what is scheduled; its first group of parameters is the policy's, a second one the critic's.
        config: `learning_rate` is the peak; `linear` and `cosine` reach zero after `updates`.
        first: the update (counted from 1) that comes next; more than 1 after an interruption.
        steps: optimizer steps of an update, which have one rate.
        standing: the first so many updates leave the policy where it is, and its schedule begins after them.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    factors = [lambda step: rate_factor(config, step // steps, standing)]
    factors += [lambda step: rate_factor(config, step // steps)] * (len(optimizer.param_groups) - 1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factors, last_epoch=(first - 1) * steps - 1)


def rate_factor(config: TrainedConfig, update: int, standing: int = 0) -> float:
    """Share of the peak learning rate in an update, counted from 0, of which the first `standing` have none.

    >>> config = TrainedConfig(updates=4, warmup_updates=2, schedule="linear")
    >>> [rate_factor(config, update) for update in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if update < standing:
        return 0.0
    rising = min(config.warmup_updates, (config.updates - standing) // 2)
    warmup = standing + rising
    if update < warmup:
        return (update - standing + 1) / rising
    passed = min(update - warmup, config.updates - warmup) / max(config.updates - warmup, 1)
    if config.schedule == "constant":
        return 1.0
    return 1 - passed if config.schedule == "linear" else (1 + math.cos(math.pi * passed)) / 2


def adam(config: TrainedConfig, policy: nn.Module, critic: nn.Module | None = None, critic_rate: float = 0.0) -> Any:
    """Return AdamW without weight decay over a policy and, at a learning rate of its own, a critic.

    What the critic shares with the policy is trained at the policy's rate.
    """
    shared = set(policy.parameters())
    groups: list[dict[str, Any]] = [{"params": list(policy.parameters()), "lr": config.learning_rate}]
    if critic is not None:
        groups.append({"params": [p for p in critic.parameters() if p not in shared], "lr": critic_rate})
    return torch.optim.AdamW(groups, betas=(config.adam_beta1, config.adam_beta2), eps=config.adam_epsilon, weight_decay=0.0)


def clipped(optimizer: Any, parameters: Sequence[Any], limit: float) -> list[float]:
    """Clips the gradients before every step of the optimizer; their norms before that are put into the list."""
    norms: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: norms.append(float(nn.utils.clip_grad_norm_(parameters, limit))))
    return norms


class Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since it was last asked."""
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def update_row(
    update: int,
    metrics: dict[str, float],
    rewards: np.ndarray,
    norms: list[float],
    tokens: int,
    reward_tokens: int,
    flops: int,
    clock: Clock,
) -> dict[str, Any]:
    """Record of an update: the trainer's metrics, the rewards' distribution, gradient norms, and what it cost."""
    counts, edges = np.histogram(rewards, bins=24)
    row: dict[str, Any] = {"update": update, **{name: float(value) for name, value in metrics.items()}}
    if math.isnan(row.get("val/ratio_var", 0.0)):
        del row["val/ratio_var"]  # PPO's, which a single minibatch in a single epoch has none of
    row.update({f"reward/quantile_{int(100 * q)}": float(np.quantile(rewards, q)) for q in _QUANTILES})
    row["reward/histogram"] = {"counts": counts.tolist(), "edges": edges.tolist()}
    row["episode"] = update * len(rewards)
    row["policy/grad_norm"] = float(np.mean(norms))
    row["tokens"] = tokens
    row["reward_tokens"] = reward_tokens
    row["flops"] = flops
    row["seconds"] = clock.lap()
    row["tokens_per_second"] = tokens / row["seconds"]
    norms.clear()
    return row


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """TRL reads and seeds the global generators: they are given back as they were. Its chatter is silenced."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    level = logging.getLogger("accelerate").level
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # TRL 1.12 still uses names that transformers 5.23 has renamed.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            # The variance of the ratios of a single minibatch.
            warnings.filterwarnings("ignore", message=r".*degrees of freedom is <= 0.*", category=UserWarning)
            yield
    finally:
        logging.getLogger("accelerate").setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
