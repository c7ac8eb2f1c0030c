"""Contents of `results/<study>/`, as figures, tables and captions read them; a run's folder is read in the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bon.intervals import Interval
from suite.metrics.rows import Row, Rows, read_rows
from suite.metrics.series import over_seeds, settings, tuned_methods
from suite.metrics.updates import load_curves, run_curves
from suite.metrics.vocabulary import CHANGED
from suite.runtime.errors import UserError

Array = NDArray[np.float64]


class Scored(Protocol):
    """Anything with scores [P, N] by name: `bon.Candidates`, or what `stored_scores` read."""

    @property
    def scores(self) -> Mapping[str, Array]:
        """Name -> [P, N]."""


@dataclass(frozen=True)
class Scores:
    """The scores of a stored pool."""

    scores: Mapping[str, Array]


@dataclass(frozen=True)
class Results:
    """One study.

    Attributes:
        study: its name.
        rows: the numbers that speak for all trainings (`series.over_seeds`).
        findings: `findings.json`.
        folder: where the pools lie; None where there are none.
        seeds: training seeds behind the rows of each tuned method.
    """

    study: str
    rows: Sequence[Row]
    findings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, study: str, rows: Sequence[Row], findings: Mapping[str, Any], folder: Path | None = None) -> Results:
        """From all rows of a study, those of each seed included."""
        tuned: dict[str, set[int]] = {}
        for row in rows:
            if row.step is not None and row.seed is not None and not row.method.endswith(CHANGED):
                tuned.setdefault(row.method, set()).add(row.seed)
        return cls(study, Rows(over_seeds(rows)), findings, folder, {method: len(seeds) for method, seeds in tuned.items()})

    @classmethod
    def load(cls, study: str, folder: Path) -> Results:
        """Read a study's folder.

        Raises:
            UserError: there are no results, or `findings.json` is no JSON.
        """
        for name in ("metrics.csv", "findings.json"):
            if not (folder / name).is_file():
                raise UserError(f"{study}: {folder / name} is missing; {command(study, True)} makes it")
        try:
            findings = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
            rows = read_rows(folder / "metrics.csv")
        except (ValueError, KeyError) as error:
            raise UserError(f"{study}: {folder} is of another schema ({error!r}); {command(study, True)} makes it") from error
        return cls.of(study, rows, findings, folder)

    def without_trained(self) -> Results:
        """Return the base policy and best-of-n alone."""
        return Results(self.study, Rows(row for row in self.rows if row.method in ("base", "best_of_n")), {}, self.folder)

    def compared(self, method: str, setting: str = "") -> Mapping[str, Any]:
        """Return what `findings.json` says of best-of-n against a tuned policy; empty where it says nothing."""
        return self.findings.get("compared", {}).get(key_of(method, setting), {})

    def overoptimisation(self, method: str, setting: str = "") -> Mapping[str, Any]:
        """Return what `findings.json` says of over-optimisation by a method; empty where it says nothing."""
        return self.findings.get("overoptimisation", {}).get(key_of(method, setting), {})

    @property
    def command(self) -> str:
        """Command that makes these results."""
        return command(self.study)

    def training_curves(self) -> dict[tuple[str, str], list[dict[str, Array]]]:
        """(method, setting) -> the curves of every training whose log is stored (see `suite.metrics.updates`)."""
        found: dict[tuple[str, str], list[dict[str, Array]]] = {}
        if self.folder is None:
            return found
        for method in tuned_methods(self.rows):
            for setting in settings(self.rows, method):
                stem = "-".join(filter(None, (method, setting, "seed")))
                files = sorted((self.folder / "updates").glob(f"{stem}*.parquet"))
                curves = [load_curves(file) for file in files] or run_curves(self.folder)
                if curves:
                    found[method, setting] = curves
        return found

    def pool(self, method: str, setting: str = "") -> Scores | None:
        """The scores of the pools of a method and setting, candidates of all its seeds side by side; None without pools."""
        if self.folder is None:
            return None
        stem = method if method == "base" else "-".join(part for part in (method, setting, "seed*") if part)
        files = sorted((self.folder / "candidates").glob(f"{stem}.parquet"))
        if not files:
            files = [self.folder / ("candidates.parquet" if method == "base" else f"candidates_{method}.parquet")]
        parts = [stored_scores(file) for file in files if file.is_file()]
        if not parts:
            return None
        return Scores({name: np.concatenate([part.scores[name] for part in parts], axis=1) for name in parts[0].scores})


def key_of(method: str, setting: str = "") -> str:
    """The key of a method in `findings.json`: `ppo`, or `ppo kl_coef=0.1`."""
    return " ".join(filter(None, (method, setting)))


def command(study: str, from_scratch: bool = False) -> str:
    """The command that makes a study from nothing, or its figures from what is stored; in backquotes."""
    if study == "headline":
        return "`python experiments/run.py name=headline`"
    if study == "benchmark" and from_scratch:
        return "`python experiments/benchmark.py`"
    return f"`python experiments/reproduce.py {'--from-scratch ' if from_scratch else ''}studies=[{study}]`"


def stored_scores(path: Path, names: Sequence[str] = ("proxy", "gold")) -> Scores:
    """Those of the columns that a file of candidates has, as [P, N]; prompts and candidates in the order of their numbers."""
    from pyarrow import parquet

    there = parquet.read_schema(path).names
    names = [name for name in names if name in there]
    table = parquet.read_table(path, columns=["prompt_id", "candidate_id", *names])
    prompt, candidate = (table[name].to_numpy() for name in ("prompt_id", "candidate_id"))
    order, prompts = np.lexsort((candidate, prompt)), len(np.unique(prompt))
    return Scores({name: table[name].to_numpy()[order].reshape(prompts, -1).astype(np.float64) for name in names})


def interval(found: Mapping[str, float | str]) -> Interval:
    """An interval of `findings.json`, where infinity is a string."""
    return Interval(*(np.asarray(float(found[end])) for end in ("value", "low", "high")))
