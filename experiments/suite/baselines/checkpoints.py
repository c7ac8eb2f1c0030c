"""Checkpoints of a training in progress: whole or not at all, without pickle where a tensor file serves."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from suite.baselines.average import MovingAverage
from suite.baselines.interface import TrainingTask
from suite.config.baselines import BaselineConfig, trained_by
from suite.runtime import device as devices
from suite.runtime import distributed
from suite.runtime.errors import UserError


class Checkpoints(TrainerCallback):
    """Keeps policy, optimizer, log and PPO's critic every few updates; a checkpoint appears whole or not at all."""

    def __init__(
        self, task: TrainingTask, policy: Any, optimizer: Any, log: list[dict[str, Any]], critic: Any | None = None
    ) -> None:
        self.task, self.policy, self.optimizer, self.log, self.critic = task, policy, optimizer, log, critic
        decay = getattr(task.config, "ema_decay", 0.0)
        resume = checkpoint_folder(task.folder, len(log)) if log else None
        self.average = MovingAverage(policy, decay, resume) if decay else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by PPO's trainer after every update."""
        self.keep()

    def keep(self) -> None:
        """After every update: tell of it, and write a checkpoint if it is one that has one (the first process does)."""
        update = len(self.log)
        if self.average is not None:
            self.average.update()
        if self.task.on_update is not None:
            self.task.on_update(self.log)
        kept = checkpoint_updates(self.task.config)
        if update not in kept:
            return
        if distributed.first():
            self._write(update, kept)
        distributed.barrier()

    def _write(self, update: int, kept: list[int]) -> None:
        self.task.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.task.folder, prefix=".writing-"))
        self.policy.save_pretrained(temporary)
        self.task.policy.tokenizer.save_pretrained(temporary)
        if self.average is not None:
            self.average.save(temporary)
        if getattr(self.task.config, "resumable", True):
            if self.critic is not None:
                save_file(self.critic.state_dict(), temporary / "critic.safetensors")
            torch.save(self.optimizer.state_dict(), temporary / "optimizer.pt")
        (temporary / "task.json").write_text(json.dumps(described(self.task), indent=1, sort_keys=True) + "\n")
        (temporary / "updates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.log))
        temporary.chmod(0o755)
        target = checkpoint_folder(self.task.folder, update)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for earlier in kept[: kept.index(update)]:
            for name in ("critic.safetensors", "optimizer.pt"):
                (checkpoint_folder(self.task.folder, earlier) / name).unlink(missing_ok=True)


def checkpoint_updates(config: BaselineConfig) -> list[int]:
    """The updates after which a checkpoint is kept: 1, 2, 4, ... up to the first regular one, the regular ones, the last.

    A policy leaves the base within a few updates, and its reward at a small KL is to be read from points, not between them.
    """
    early = takewhile(lambda update: update < config.checkpoint_every, (2**k for k in count()))
    regular = range(config.checkpoint_every, config.updates, config.checkpoint_every)
    return sorted({update for update in (*early, *regular) if update < config.updates} | {config.updates})


def described(task: TrainingTask) -> dict[str, Any]:
    """All that determines a training's result, as JSON has it: it stands in every checkpoint."""
    return {
        **{f"baseline.{key}": value for key, value in trained_by(task.config).items()},
        **{f"sampling.{key}": value for key, value in asdict(task.sampling).items()},
        "policy": task.policy.digest,
        "proxy": getattr(task.proxy, "digest", None),
        "prompts": hashlib.sha256(json.dumps([list(ids) for ids in task.prompts]).encode()).hexdigest(),
        "seed": task.seed,
        **devices.determining(task.policy.model.device, getattr(task.config, "precision", "auto")),
        **distributed.determining(),
    }


def check_same_task(checkpoint: Path, task: TrainingTask) -> None:
    """That a checkpoint is one of this very training.

    Raises:
        UserError: it is not, and every difference is named; or it does not say what it is of.
    """
    remedy = f"choose a new folder with cache=FOLDER, or delete {checkpoint.parent}"
    try:
        kept = dict(json.loads((checkpoint / "task.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{checkpoint}/task.json cannot be read ({type(error).__name__}): {remedy}") from None
    wanted = described(task)
    others = [
        f"{key}={kept.get(key)} there, {key}={wanted.get(key)} here"
        for key in sorted(kept.keys() | wanted.keys())
        if kept.get(key) != wanted.get(key)
    ]
    if others:
        raise UserError(f"{checkpoint} is of another training ({'; '.join(others)}): {remedy}")


def checkpoint_folder(folder: Path, update: int) -> Path:
    """Return the folder of the policy after this update."""
    return folder / f"checkpoint-{update:06d}"


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """The log of every update up to the checkpoint."""
    return [json.loads(line) for line in (checkpoint / "updates.jsonl").read_text().splitlines()]


def restore(checkpoint: Path, optimizer: Any, critic: Any | None = None) -> None:
    """Put the optimizer, and PPO's critic, back as they were after the checkpoint's update."""
    device = optimizer.param_groups[0]["params"][0].device
    if critic is not None:
        critic.load_state_dict(load_file(checkpoint / "critic.safetensors", device=str(device)))
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location=device))
