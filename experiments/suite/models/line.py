"""Policies on the straight line from the base policy's weights through a trained one's, and policies of averaged weights.

One training gives a whole frontier: between the two (interpolation: the last step of WARP, Rame et al. 2024) and beyond the
trained one (extrapolation: Zheng et al. 2024, Weak-to-strong extrapolation expedites alignment).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from suite.models.policies import Policy, load_checkpoint
from suite.runtime.hashing import digest, file_digest

AVERAGE = "average.safetensors"
"""The averaged weights of a training, beside the trained ones in its checkpoint."""


@contextlib.contextmanager
def on_line(base: Policy, checkpoint: Path, step: float) -> Iterator[Policy]:
    """Open the policy whose weights are base + step x (trained - base), in single precision before they are rounded.

    Args:
        base: where the line begins; step 0.
        checkpoint: folder of the trained policy; step 1.
        step: how far along, beyond 1 too.
    """
    start = dict(base.model.named_parameters())

    def moved(name: str, trained: torch.Tensor) -> torch.Tensor:
        return torch.lerp(start[name].float(), trained.float(), step)

    with _changed(base, checkpoint, f"line-{step:g}", {"step": step}, moved) as policy:
        yield policy


@contextlib.contextmanager
def averaged(base: Policy, checkpoint: Path) -> Iterator[Policy]:
    """Open the policy of a checkpoint's averaged weights, which must be there."""
    weights = load_file(checkpoint / AVERAGE, device=str(base.model.device))
    marks = {"average": file_digest(checkpoint / AVERAGE)}
    with _changed(base, checkpoint, "average", marks, lambda name, _: weights[name]) as policy:
        yield policy


@contextlib.contextmanager
def _changed(
    base: Policy,
    checkpoint: Path,
    name: str,
    marks: dict[str, Any],
    weights: Callable[[str, torch.Tensor], torch.Tensor],
) -> Iterator[Policy]:
    """The policy of a checkpoint with other weights; its folder is there while it is open, for engines that load it."""
    trained = load_checkpoint(base, checkpoint)
    with torch.no_grad():
        for key, parameter in trained.model.named_parameters():
            parameter.copy_(weights(key, parameter))
    made = digest({**marks, "base": base.digest, "trained": trained.digest})
    with tempfile.TemporaryDirectory(dir=checkpoint.parent, prefix=".changed-") as folder:
        trained.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
        yield replace(trained, name=f"{checkpoint.name}-{name}", digest=made, folder=folder)
