"""Best-of-n against trained policies: the numbers and findings that `frontier` and `weak_proxy` have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bon.intervals import Band
from suite.analysis.findings import Overoptimisation, as_json, best_of_n_overoptimisation, sentences
from suite.analysis.objective import best_of_n_minus_optimum
from suite.analysis.objective_words import objective_sentences, objectives_as_json
from suite.metrics.evaluation import Study, curve_rows
from suite.metrics.rows import Row, write_rows
from suite.metrics.search import search_flops
from suite.runtime.files import rounded, write_json
from suite.studies.changed_weights import changed_rows
from suite.studies.objectives import gained_over_seeds, objective_rows, yardstick_of
from suite.studies.over_seeds import (
    Measured,
    compared_over_seeds,
    equal_kl,
    final_policies,
    measured,
    overoptimisation_over_seeds,
    path_over_seeds,
    rows_of_training,
    rows_over_seeds,
)
from suite.studies.store import Stored


def base_rows(study: Study, stored: Stored, n: int) -> list[Row]:
    """Best-of-n of the base policy for every n; these rows belong to no training seed."""
    flops = stored.request_flops(stored.base)
    return [replace(row, seed=None) for row in curve_rows(study, stored.base, "base", None, n, flops)]


def rebuild(folder: Path, name: str, stored: Stored) -> None:
    """Write `metrics.csv` and `findings.json` of a study whose settings have an `n`."""
    n = stored.settings.n
    study = Study(stored.base, 0, stored.resamples)
    groups = {label: [measured(study, stored, trained, n) for trained in group] for label, group in stored.groups().items()}
    rows = base_rows(study, stored, n)
    for group in groups.values():
        rows += [row for found in group for row in rows_of_training(study, found)]
        rows += rows_over_seeds(group)
        rows += changed_rows(study, [found.trained for found in group])
    yardstick = yardstick_of(study, stored)
    objectives = {} if yardstick is None else gained_over_seeds(yardstick, stored.groups())
    if yardstick is not None:
        rows += objective_rows(yardstick, stored.groups(), objectives)
    write_rows(rows, folder / "metrics.csv")
    found = {"study": name, **_findings(study, stored, groups)}
    if yardstick is not None:
        found["objective"] = objectives_as_json(yardstick, objectives)
        found["best_of_n_minus_optimum_at_equal_kl"] = best_of_n_minus_optimum(yardstick)
        found["sentences"] += objective_sentences(yardstick, objectives)
    write_json(folder / "findings.json", rounded(found))


def _findings(study: Study, stored: Stored, groups: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    found = {
        label: compared_over_seeds(
            study, stored, group, stored.settings.n, search_flops(group[0].trained.method, stored.policy)
        )
        for label, group in groups.items()
    }
    over: dict[str, Overoptimisation] = {"best_of_n": best_of_n_overoptimisation(study)}
    over.update({label: overoptimisation_over_seeds(path_over_seeds(study, group)) for label, group in groups.items()})
    told = as_json(found, over)
    for label, group in groups.items():
        first = group[0].trained
        seeds = [each.trained.seed for each in group]
        told["compared"][label].update(method=first.method, setting=first.setting, seeds=seeds)
    swept: dict[str, list[Sequence[Measured]]] = {}
    for group in groups.values():
        if group[0].trained.setting:
            swept.setdefault(group[0].trained.method, []).append(group)
    frontiers = {method: final_policies(study, together) for method, together in swept.items()}
    told["equal_kl"] = {method: _points(equal_kl(study, path.kl, path.gold)) for method, path in frontiers.items()}
    told["sentences"] = [_design(stored), *sentences(found, over, study.base.num_prompts)]
    return told


def _design(stored: Stored) -> str:
    counts = ", ".join(f"{label} with {len(group)}" for label, group in stored.groups().items())
    return (
        f"Training seeds: {counts}. Every interval of a trained policy is over its seeds and the prompts, at a nominal 95%; "
        "with 3 to 5 seeds that spread unevenly they hold less often (`results/coverage/coverage.md`)."
    )


def _points(differences: Mapping[float, Band]) -> list[dict[str, float]]:
    return [
        {"kl": kl, **{name: float(part) for name, part in interval._asdict().items()}} for kl, interval in differences.items()
    ]
