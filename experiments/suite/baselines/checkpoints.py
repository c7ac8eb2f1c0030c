"""Checkpoints of a training in progress: whole or not at all, without pickle where a tensor file serves."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from suite.baselines import TrainingTask


class Checkpoints(TrainerCallback):
    """Keeps the policy, the critic, the optimizer and the log every few updates; a checkpoint appears whole or not at all."""

    def __init__(self, task: TrainingTask, policy: Any, critic: Any, optimizer: Any, log: list[dict[str, Any]]) -> None:
        self.task, self.policy, self.critic, self.optimizer, self.log = task, policy, critic, optimizer, log

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after every update."""
        update = len(self.log)
        config = self.task.config
        if update % config.checkpoint_every and update != config.updates:
            return
        self.task.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.task.folder, prefix=".writing-"))
        self.policy.save_pretrained(temporary)
        self.task.policy.tokenizer.save_pretrained(temporary)
        save_file(self.critic.state_dict(), temporary / "critic.safetensors")
        torch.save(self.optimizer.state_dict(), temporary / "optimizer.pt")
        (temporary / "updates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.log))
        temporary.chmod(0o755)
        target = checkpoint_folder(self.task.folder, update)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for earlier in range(config.checkpoint_every, update, config.checkpoint_every):
            for name in ("critic.safetensors", "optimizer.pt"):
                (checkpoint_folder(self.task.folder, earlier) / name).unlink(missing_ok=True)


def checkpoint_folder(folder: Path, update: int) -> Path:
    """Where the policy after this update is kept."""
    return folder / f"checkpoint-{update:06d}"


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """The log of every update up to the checkpoint."""
    return [json.loads(line) for line in (checkpoint / "updates.jsonl").read_text().splitlines()]


def restore(checkpoint: Path, critic: Any, optimizer: Any) -> None:
    """Put critic and optimizer back as they were after the checkpoint's update."""
    device = next(critic.parameters()).device
    critic.load_state_dict(load_file(checkpoint / "critic.safetensors", device=str(device)))
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location=device))
