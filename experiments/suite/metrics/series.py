"""Rows to what is drawn: a curve over n, a path over training, a frontier over settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from suite.metrics.rows import Row, select
from suite.metrics.vocabulary import CHANGED, LINE

Array = NDArray[np.float64]
#: The kind of KL that tuned policies are drawn at.
MEASURED = "rao_blackwell"


class Curve(NamedTuple):
    """Points with intervals; where a row has none, both ends are its value.

    Attributes:
        at: [K] what they are against.
        value, low, high: [K] each.
    """

    at: Array
    value: Array
    low: Array
    high: Array


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows that speak for all trainings.

    Those over all seeds where there are such. Otherwise that of the only seed, and the mean of several without an interval:
    theirs are over prompts and say nothing about seeds.
    """
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.method, row.setting, row.step, row.n, row.metric, row.kl_kind].append(row)
    chosen = []
    for group in groups.values():
        over_all = [row for row in group if row.seed is None]
        if over_all or len(group) == 1:
            chosen.append((over_all or group)[0])
        else:
            mean = float(np.mean([row.value for row in group]))
            chosen.append(replace(group[0], seed=None, value=mean, ci_low=None, ci_high=None))
    return chosen


def tuned_methods(rows: Sequence[Row]) -> list[str]:
    """Methods that are trained policies, in the order of the rows."""
    found = dict.fromkeys(row.method for row in rows if row.step is not None and "+" not in row.method)
    return [method for method in found if not method.endswith(CHANGED)]


def on_line(rows: Sequence[Row], method: str, metric: str, setting: str = "") -> tuple[Curve, Curve]:
    """Measured KL and a metric of the base policy, a trained one and those on the line through both, in the order of KL."""
    line = f"{method}{LINE}"
    own = [choice for choice in settings(rows, line) if choice.rpartition(" ")[0] == setting]
    pairs = [
        (kl, value)
        for choice in own
        if (kl := level(rows, line, "kl", choice, MEASURED)) and (value := level(rows, line, metric, choice))
    ]
    trained = level(rows, method, "kl", setting, MEASURED), level(rows, method, metric, setting)
    start = select(rows, method="base", metric=metric, n=1)[:1]
    if not pairs or not start or not all(trained):
        return curve([], []), curve([], [])
    pairs += [(Row("base", None, None, 1, "kl", 0.0), start[0]), trained]  # type: ignore[list-item]
    pairs.sort(key=lambda pair: pair[0].value)
    order = list(range(len(pairs)))
    return curve(order, [kl for kl, _ in pairs]), curve(order, [value for _, value in pairs])


def last_step(rows: Sequence[Row], method: str, setting: str = "") -> int | None:
    """The last training update of a method that was evaluated, for one value of what was swept."""
    steps = (row.step for row in rows if row.method == method and row.setting == setting and row.step is not None)
    return max(steps, default=None)


def settings(rows: Sequence[Row], method: str) -> list[str]:
    """The values of what was swept for a method, in the order of their numbers."""
    return sorted({row.setting for row in rows if row.method == method}, key=lambda setting: (number(setting), setting))


def number(setting: str) -> float:
    """0.1 of `kl_coef=0.1`; infinity where there is no number."""
    try:
        return float(setting.rpartition("=")[2])
    except ValueError:
        return np.inf


def middle(choices: Sequence[str]) -> str:
    """The middle one of ordered settings, the lower of two."""
    return choices[(len(choices) - 1) // 2]


def spread(choices: Sequence[str], most: int) -> list[str]:
    """At most `most` of ordered settings, the first, the last and evenly between them."""
    at = np.unique(np.linspace(0, len(choices) - 1, min(most, len(choices))).round().astype(int))
    return [choices[k] for k in at]


def level(rows: Sequence[Row], method: str, metric: str, setting: str = "", kl_kind: str | None = None) -> Row | None:
    """The number of a policy sampled once, after its training; None where it was not measured."""
    step = last_step(rows, method, setting)
    found = select(rows, method=method, metric=metric, n=1, step=step, setting=setting, kl_kind=kl_kind)
    return found[0] if found else None


def over_n(rows: Sequence[Row], method: str, metric: str, setting: str = "", kl_kind: str | None = None) -> Curve:
    """A metric of best-of-n against n, n = 1 included: of the base policy ("best_of_n"), or of a tuned one after training."""
    first = "base" if method == "best_of_n" else method.removesuffix("+best_of_n")
    wanted = {"metric": metric, "kl_kind": kl_kind, "setting": setting, "step": last_step(rows, first, setting)}
    found = select(rows, method=first, n=1, **wanted) + select(rows, method=method, **wanted)
    found.sort(key=lambda row: row.n)
    return curve([row.n for row in found], found)


def over_training(rows: Sequence[Row], method: str, metric: str, setting: str = "") -> tuple[Curve, Curve]:
    """Measured KL and a metric over the updates of a training that measured both; it begins at the base policy, at no KL."""
    wanted = {"method": method, "n": 1, "setting": setting}
    kls = sorted(select(rows, metric="kl", kl_kind=MEASURED, **wanted), key=lambda row: row.step or 0)
    values = {row.step: row for row in select(rows, metric=metric, kl_kind=None, **wanted)}
    start = select(rows, method="base", metric=metric, n=1)
    kls = [kl for kl in kls if kl.step in values]
    base = [Row("base", None, None, 1, "kl", 0.0)] if start else []
    steps = [row.step or 0 for row in (*base, *kls)]
    return curve(steps, [*base, *kls]), curve(steps, [*start[:1], *(values[kl.step] for kl in kls)])


def over_settings(rows: Sequence[Row], method: str, metric: str) -> tuple[Curve, Curve]:
    """Measured KL and a metric after training, a point for each setting, in the order of KL."""
    pairs = [
        (kl, value)
        for setting in settings(rows, method)
        if (kl := level(rows, method, "kl", setting, MEASURED)) and (value := level(rows, method, metric, setting))
    ]
    pairs.sort(key=lambda pair: pair[0].value)
    order = list(range(len(pairs)))
    return curve(order, [kl for kl, _ in pairs]), curve(order, [value for _, value in pairs])


def curve(at: Sequence[float], rows: Sequence[Row]) -> Curve:
    """The rows as arrays."""
    ends = [(row.value, *((row.value,) * 2 if row.ci_low is None else (row.ci_low, row.ci_high))) for row in rows]
    parts = np.array(ends, dtype=float).reshape(-1, 3).T
    return Curve(np.asarray(at, dtype=float), *parts)


def table_rows(rows: Sequence[Row], n: int) -> list[tuple[str, int, int | None]]:
    """The methods of the table: name, n and training step."""
    methods: list[tuple[str, int, int | None]] = [("base", 1, None)]
    if n > 1:
        methods.append(("best_of_n", n, None))
    for method in tuned_methods(rows):
        step = last_step(rows, method)
        methods.append((method, 1, step))
        if n > 1:
            methods.append((f"{method}+best_of_n", n, step))
    return methods
