"""The trials of all searches as a file and as tables: who was searched, at which price, with how many seeds."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from tabulate import tabulate

from suite.config.baselines import trained_baselines
from suite.runtime.errors import UserError
from suite.studies.tuning import Trial


def write_trials(trials: Sequence[Trial], path: Path) -> None:
    """Write a row a training, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Trial)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(trial) for trial in trials)
    temporary.replace(path)


def read_trials(path: Path) -> list[Trial]:
    """Read what `write_trials` wrote; empty where there is no file.

    Raises:
        UserError: the file is of another search.
    """
    if not path.is_file():
        return []
    kinds = get_type_hints(Trial)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or []) != [column.name for column in fields(Trial)]:
            raise UserError(f"{path} is of an earlier kind of search; move its folder away, or name=ANOTHER")
        return [Trial(**{key: _read(kinds[key], value) for key, value in row.items()}) for row in reader]


def joined(kept: Sequence[Trial], found: Sequence[Trial], trainer: str, prices: Sequence[float]) -> list[Trial]:
    """Return earlier trials of other trainers and prices, and the new ones of this trainer at these."""
    return [trial for trial in kept if not (trial.trainer == trainer and trial.price in prices)] + list(found)


def table(trials: Sequence[Trial], style: str = "github") -> str:
    """Return a table for each trainer and price, longest budget and best first, and who was not searched."""
    parts = []
    for trainer, price in dict.fromkeys((trial.trainer, trial.price) for trial in trials):
        own = [trial for trial in trials if (trial.trainer, trial.price) == (trainer, price)]
        bound = " (at most: the pool cannot say what the optimum gains)" if own[0].share_is_bound else ""
        parts.append(f"{trainer}, {price:g} a nat{bound}:\n\n{_one_search(own, style)}")
    searched = {trial.trainer for trial in trials}
    others = [name for name in trained_baselines() if name not in searched]
    told = f"Searched: {', '.join(sorted(searched)) or 'none'}. "
    told += f"Not searched, trained as configured: {', '.join(others) or 'none'}."
    ranked = "Ranked by share of the optimum's objective on training prompts and proxy; ± is the standard error over seeds."
    return "\n\n".join([f"{told} {ranked}", *parts])


def _one_search(trials: Sequence[Trial], style: str) -> str:
    groups: dict[tuple[int, str], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.updates, trial.settings), []).append(trial)
    ordered = sorted(groups.items(), key=lambda item: (-item[0][0], -_mean(item[1], "share")))
    rows = [
        [settings, f"{own[0].responses:,}", len(own), f"{_mean(own, 'share'):.0%}{_error(own)}", f"{_mean(own, 'gained'):.2f}",
         f"{_mean(own, 'proxy'):.2f}", f"{_mean(own, 'kl'):.2f}", f"{_mean(own, 'distinct_2'):.2f}",
         f"{sum(trial.training_flops for trial in own) / 1e12:.1f}",
         f"{sum(trial.training_seconds for trial in own) / 60:.1f}"]
        for (_, settings), own in ordered
    ]  # fmt: skip
    headers = ["settings", "responses", "seeds", "share of the optimum", "objective gained", "proxy", "KL", "distinct-2",
               "TFLOP", "minutes"]  # fmt: skip
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def _mean(trials: Sequence[Trial], name: str) -> float:
    return float(np.mean([getattr(trial, name) for trial in trials]))


def _error(trials: Sequence[Trial]) -> str:
    if len(trials) < 2:
        return ""
    return f" ± {np.std([trial.share for trial in trials], ddof=1) / np.sqrt(len(trials)):.0%}"


def _read(kind: Any, value: str) -> Any:
    return value == "True" if kind is bool else kind(value)
