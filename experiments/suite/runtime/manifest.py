"""Record of what made a run's numbers: code, versions, machine, data, models, seeds, durations."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from typing import Any

import torch

from suite.runtime.paths import REPOSITORY

_PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy", "scipy", "hydra-core", "wandb", "matplotlib")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    """None where it is not installed: no run needs every one of them."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def manifest(**facts: Any) -> dict[str, Any]:
    """The facts of this run with those of the machine and the code."""
    # Results that a run writes are no change of what made them.
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)results")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "git": {"sha": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "peak_memory_bytes": peak,
        **facts,
    }
