"""Cost of the search for a trainer's settings: the FLOPs of all its trials, from `results/`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from suite.runtime.paths import REPOSITORY

#: The searches on record, the newest kind first.
SEARCHES = (REPOSITORY / "results" / "search", REPOSITORY / "results" / "tuning")


def search_flops(trainer: str, policy: str, folders: Sequence[Path] = SEARCHES) -> float | None:
    """Return the FLOPs of every trial of a trainer on a policy; None where no such search is on record.

    Args:
        trainer: a baseline's name.
        policy: the name of the policy that was trained.
        folders: of searches, `trials.csv` and `config.yaml` each; the first that has trials of this trainer counts.
    """
    found = (_flops(trainer, policy, folder) for folder in folders)
    return next((flops for flops in found if flops is not None), None)


def _flops(trainer: str, policy: str, folder: Path) -> float | None:
    if not (folder / "trials.csv").is_file():
        return None
    config: Any = OmegaConf.load(folder / "config.yaml")
    if config.policy.name != policy:
        return None
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as file:
        trials = [row for row in csv.DictReader(file) if row.get("trainer", config.baseline.name) == trainer]
    return sum(float(row["training_flops"]) for row in trials) if trials else None
