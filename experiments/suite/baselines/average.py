"""The exponential moving average of a policy over its updates, from the base policy on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from suite.models.line import AVERAGE


class MovingAverage:
    """Weights averaged as decay x average + (1 - decay) x policy after every update; the average begins at the base policy.

    Of all updates the last counts 1 - decay, the one before (1 - decay) decay, and the base policy decay^updates.
    """

    def __init__(self, policy: Any, decay: float, resume: Path | None = None) -> None:
        """Begin at the policy, or go on with the average of a checkpoint."""
        self.policy, self.decay = policy, decay
        start = {name: parameter.detach().float() for name, parameter in policy.named_parameters()}
        if resume is not None:
            device = next(iter(start.values())).device
            start = load_file(resume / AVERAGE, device=str(device))
        self.weights = {name: weight.clone().contiguous() for name, weight in start.items()}

    def update(self) -> None:
        """Take in the policy as it is now."""
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                self.weights[name].lerp_(parameter.float(), 1 - self.decay)

    def save(self, folder: Path) -> None:
        """Write the average into a checkpoint."""
        save_file(self.weights, folder / AVERAGE)
