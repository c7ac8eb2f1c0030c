"""Number of responses that a study's policies were trained on, and what may be said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

#: On the embedded policy PPO's objective still rises at a tenth of this, and rises little beyond it.
ENOUGH = 24_576
#: Pages leave policies out that were trained on fewer.
FEWEST = 2_048


class Budget(NamedTuple):
    """Of one training: `updates` of `batch_size` responses each."""

    method: str
    updates: int
    batch_size: int

    @property
    def responses(self) -> int:
        """Responses that a training drew."""
        return self.updates * self.batch_size


def training_budget(folder: Path) -> Budget | None:
    """Return the budget that `config.yaml` of a study or run names; None where nothing was trained."""
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    baseline = config.get("run", config).get("baseline") or {}
    if baseline.get("name", "none") in ("none", "published"):
        return None
    study = config.get("study", {})  # what it sets it sets for all of its runs
    return Budget(baseline["name"], *(study.get(key, baseline[key]) for key in ("updates", "batch_size")))
