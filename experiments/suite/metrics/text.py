"""Numbers as captions, sentences and tables write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suite.metrics.naming import title
from suite.metrics.registry import digits_of
from suite.metrics.results import Results
from suite.metrics.rows import Row, select


def number(row: Row, digits: int | None = None, interval: bool = True) -> str:
    """A value with its interval: 0.74 [0.68, 0.81]; without one where there is none, or where it has no width."""
    digits = digits_of(row.metric) if digits is None else digits
    value = fixed(row.value, digits)
    ends = ends_of(row, digits)
    return f"{value} {ends}" if interval and ends else value


def ends_of(row: Row, digits: int | None = None) -> str:
    """The interval alone: [0.68, 0.81]; empty where there is none, or where it has no width."""
    if row.ci_low is None or row.ci_high is None or np.isclose(row.ci_low, row.ci_high, rtol=1e-6, atol=1e-12):
        return ""
    digits = digits_of(row.metric) if digits is None else digits
    return f"[{fixed(row.ci_low, digits)}, {fixed(row.ci_high, digits)}]"


def fixed(value: float, digits: int) -> str:
    """So many decimal places, thousands apart, and no minus before a zero."""
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def parts(found: Mapping[str, Any], digits: int = 2, scale: float = 1.0) -> str:
    """A number of `findings.json` with its interval; "never" and the like for infinite ones are the caller's to say."""
    value, low, high = (float(found[name]) * scale for name in ("value", "low", "high"))
    return f"{fixed(value, digits)} [{fixed(low, digits)}, {fixed(high, digits)}]"


def rows_of(rows: Sequence[Row], method: str, metric: str) -> list[Row]:
    """All rows of a method and metric, in the order of n."""
    return sorted(select(rows, method=method, metric=metric), key=lambda row: row.n)


def seeds_and_prompts(results: Results) -> str:
    """Say what the intervals are over."""
    if max(results.seeds.values(), default=0) < 2:
        return "over prompts" + (", of one training seed" if results.seeds else "")
    return f"over prompts, those of trained policies over training seeds ({seeds_of_methods(results)}) and prompts"


def seeds_of_methods(results: Results) -> str:
    """Write the number of trainings of each method: "PPO 5, RLOO 3"."""
    return ", ".join(f"{title(method)} {count}" for method, count in results.seeds.items() if "+" not in method)
