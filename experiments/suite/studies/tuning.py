"""A documented search: trainings that differ from the default settings in a key or two, at one budget of drawn responses.

They are compared by what the trainer itself maximises, the proxy reward less `kl_coef` times the KL, on its roll-outs of the
last quarter of the training. No evaluation prompt and no gold reward has a say in the choice.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from suite.baselines.interface import Training, train
from suite.comparison.setup import prepare, training_task
from suite.config.tune import TuneConfig
from suite.runtime.paths import located


@dataclass(frozen=True)
class Trial:
    """What one training came to, over the last quarter of its updates; `objective_error` is the standard error over them."""

    settings: str
    objective: float
    objective_error: float
    proxy: float
    kl: float
    distinct_2: float
    training_tokens: int
    training_flops: int
    training_seconds: float

    @classmethod
    def of(cls, settings: Sequence[str], training: Training, kl_coef: float) -> Trial:
        """The summary of a training's log."""
        last = training.log[-max(len(training.log) // 4, 1) :]
        proxy, kl = (np.array([row[key] for row in last]) for key in ("objective/scores", "objective/kl"))
        values = proxy - kl_coef * kl
        return cls(
            settings=", ".join(settings) or "as configured",
            objective=float(values.mean()),
            objective_error=float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan"),
            proxy=float(proxy.mean()),
            kl=float(np.mean([row.get("objective/kl_rao_blackwell", row["objective/kl"]) for row in last])),
            distinct_2=float(np.mean([row["response/distinct_2"] for row in last])),
            training_tokens=training.tokens,
            training_flops=training.flops,
            training_seconds=training.seconds,
        )


def tune(config: TuneConfig) -> Iterator[Trial]:
    """Each trial in turn, as soon as it is trained; those that the cache has cost nothing."""
    cache = located(config.cache)
    for trial in config.trials:
        changed = config.changed(trial)
        baseline: Any = changed.baseline
        yield Trial.of(trial, train(training_task(prepare(changed), cache)), baseline.kl_coef)


def table(trials: Sequence[Trial], style: str = "github") -> str:
    """The trials, best first."""
    rows = [
        [t.settings, f"{t.objective:.2f} ± {t.objective_error:.2f}", f"{t.proxy:.2f}", f"{t.kl:.1f}", f"{t.distinct_2:.2f}",
         f"{t.training_flops / 1e12:.1f}", f"{t.training_seconds:.0f}"]
        for t in sorted(trials, key=lambda t: -t.objective)
    ]  # fmt: skip
    headers = ["settings", "objective", "proxy", "KL", "distinct-2", "TFLOP", "seconds"]
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def write_trials(trials: Sequence[Trial], path: Path) -> None:
    """A row a trial, in the order in which they ran; whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Trial.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(trial) for trial in trials)
    os.replace(temporary, path)
