"""The log of a training as a few curves over its updates, in the same words for every trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Curve -> the keys of a trainer's log that may hold it, the better one first. NaN where a trainer has none.
SOURCES: dict[str, tuple[str, ...]] = {
    "score": ("objective/scores",),
    "kl": ("objective/kl_rao_blackwell", "objective/kl"),
    "entropy": ("policy/entropy_avg", "entropy"),
    "explained_variance": ("val/explained_variance",),
    "lr": ("lr",),
}


def training_curves(log: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return `update` [U] and every curve of `SOURCES` [U] from the rows of a log.

    `score` is the mean proxy reward of an update's responses, `kl` their KL to the base policy in nats per response, `entropy`
    that of the policy in nats per token, `explained_variance` the critic's.

    >>> training_curves([{"update": 1, "objective/scores": 0.5, "objective/kl": 0.1, "lr": 1e-4}])["kl"].tolist()
    [0.1]
    """
    curves = {"update": np.array([row["update"] for row in log], dtype=np.float64)}
    for name, keys in SOURCES.items():
        found = [next((row[key] for key in keys if key in row), np.nan) for row in log]
        curves[name] = np.array(found, dtype=np.float64)
    return curves


def load_curves(path: Path) -> dict[str, Array]:
    """Read what `suite.studies.pool_files.save_curves` wrote, as `training_curves` returns it."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    return {name: table[name].to_numpy().astype(np.float64) for name in ("update", *SOURCES)}


def run_curves(folder: Path) -> list[dict[str, Array]]:
    """The curves of a run's only training, from its `updates.jsonl`; none where it trained nothing."""
    file = folder / "updates.jsonl"
    log = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    return [training_curves(log)] if log else []
