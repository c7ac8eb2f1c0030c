"""Comparison of a study that was run again with the committed one.

Two estimates agree when their difference lies within its joint interval: the half-widths of both added in quadrature, widened
so that all numbers of the study together lie within theirs in 95 of 100 repetitions (Bonferroni, normal quantiles). The
prompts are the same in both, so the intervals are wide rather than narrow.

Numbers of one training are left out: a machine with other arithmetic trains another policy, and their intervals know nothing
of that. So are seconds, which belong to the machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import norm

from suite.metrics.rows import read_rows


class Number(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float


def disagreements(again: Path, committed: Path) -> list[str]:
    """A line for every number that is missing on one side or outside the joint interval; and how many were compared.

    Args:
        again: the folder of the study that was run again.
        committed: the folder it is compared with.
    """
    new, old = numbers(again), numbers(committed)
    lines = [f"{name}: only in {committed if name in old else again}" for name in sorted(new.keys() ^ old.keys())]
    common = sorted(new.keys() & old.keys())
    widened = float(norm.ppf(1 - 0.025 / max(len(common), 1)) / norm.ppf(0.975))
    for name in common:
        a, b = new[name], old[name]
        if not agree(a, b, widened):
            lines.append(
                f"{name}: {a.value:.4g} [{a.low:.4g}, {a.high:.4g}], committed {b.value:.4g} [{b.low:.4g}, {b.high:.4g}]"
            )
    return lines


def agree(a: Number, b: Number, widened: float) -> bool:
    """Tell whether the difference lies within the joint interval, its half-width multiplied by `widened`."""
    if a.value == b.value:
        return True
    if not math.isfinite(a.value - b.value):
        # One did not reach what the other did: no contradiction where the other's interval is open too.
        return math.isinf(max(a.high, b.high)) and math.isinf(min(a.high, b.high))
    upper, lower = (a, b) if a.value > b.value else (b, a)
    reach = math.hypot(upper.value - upper.low, lower.high - lower.value)
    noise = 1e-6 * max(1.0, abs(a.value), abs(b.value))  # of the arithmetic, for numbers without an interval of any width
    return upper.value - lower.value <= widened * reach + noise


def numbers(folder: Path) -> dict[str, Number]:
    """Every number of a study that can be compared, by name: of `metrics.csv` and of `findings.json`."""
    found = {}
    for row in read_rows(folder / "metrics.csv"):
        if row.seed is None and row.ci_low is not None and row.ci_high is not None:
            parts = (row.method, row.setting, "" if row.step is None else f"update {row.step}", f"n={row.n}", row.metric)
            name = " ".join(part for part in (*parts, row.kl_kind or "") if part)
            found[name] = Number(row.value, row.ci_low, row.ci_high)
    found.update(_walk(json.loads((folder / "findings.json").read_text(encoding="utf-8")), "findings"))
    return found


def _walk(node: Any, name: str) -> Iterator[tuple[str, Number]]:
    """Every interval in a JSON value, except of single trainings."""
    if isinstance(node, dict):
        if "seed" in node:
            return
        if {"value", "low", "high"} <= node.keys():
            at = f" at {node['kl']:g}" if "kl" in node else ""
            yield f"{name}{at}", Number(*(float(node[key]) for key in ("value", "low", "high")))
            return
        for key, value in node.items():
            yield from _walk(value, f"{name} {key}")
    elif isinstance(node, list):
        for k, value in enumerate(node):
            known = value.get("comparison") if isinstance(value, dict) else None
            yield from _walk(value, f"{name} {known}" if known else name if _is_point(value) else f"{name} {k}")


def _is_point(value: Any) -> bool:
    return isinstance(value, dict) and "kl" in value
