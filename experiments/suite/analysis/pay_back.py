"""When training pays for itself beyond the mean over seeds: for one training, with the search for settings, by budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.intervals import Interval
from bon.tradeoffs.over_seeds import each_equivalent_n, predicted_equivalent_n, seeds_equivalent_n
from suite.metrics.cost import BreakEven, Costs, break_even

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """A training that is stopped after `update`: what it took, what it is worth, when it has paid for itself."""

    update: int
    training_flops: float
    equivalent_n: Interval
    requests: BreakEven


@dataclass(frozen=True)
class PayBack:
    """What `Findings.break_even`, an interval of the mean over seeds, leaves out.

    Attributes:
        seeds: of the trainings.
        each_n: the n of equal gold reward of every training.
        each_requests: requests after which every training has paid for itself.
        one_n: prediction interval for the n that one more training is worth.
        one: the requests that follow from it: a user trains once.
        search_flops: of the trainings that found the settings; None where no search is on record.
        with_search: requests after which a training and the whole search have paid for themselves.
        by_budget: the same training stopped earlier, at every checkpoint that was evaluated.
    """

    seeds: list[int]
    each_n: list[float]
    each_requests: list[float]
    one_n: Interval
    one: BreakEven
    search_flops: float | None = None
    with_search: BreakEven | None = None
    by_budget: list[Budget] = field(default_factory=list)


def pay_back(
    curve: Array,
    targets: Mapping[int, Array],
    seeds: Sequence[int],
    costs: Costs,
    tuned: Mapping[int, float] | None = None,
    search_flops: float | None = None,
) -> PayBack:
    """When a method's trainings have paid for themselves.

    A training that is stopped earlier costs in proportion to its updates, which are alike.

    Args:
        curve: [P, N] gold reward of best-of-n.
        targets: update -> [S, P] gold reward of every seed after it; the last is the result.
        seeds: of the trainings.
        costs: of the result, means over seeds.
        tuned: update -> FLOPs of a request to the policy after it; only the last update is judged without it.
        search_flops: of the search for the settings.
    """
    last = max(targets)
    each_n = each_equivalent_n(curve, targets[last])
    one_n = predicted_equivalent_n(curve, targets[last])
    searched = None
    if search_flops is not None:
        searched = break_even(replace(costs, training=costs.training + search_flops), seeds_equivalent_n(curve, targets[last]))
    budgets = []
    for update in sorted(tuned or {}):
        spent = replace(costs, training=costs.training * update / last, tuned=(tuned or {})[update])
        worth = seeds_equivalent_n(curve, targets[update])
        budgets.append(Budget(update, spent.training, worth, break_even(spent, worth)))
    return PayBack(
        seeds=list(seeds),
        each_n=each_n.tolist(),
        each_requests=[float(break_even(costs, Interval(n, n, n)).requests.value) for n in each_n],
        one_n=one_n,
        one=break_even(costs, one_n),
        search_flops=search_flops,
        with_search=searched,
        by_budget=budgets,
    )


def told(found: PayBack, name: str, most: int) -> list[str]:
    """Return the sentences: what one training is worth, and the search."""
    each = ", ".join(_n(n, most) for n in found.each_n)
    low, high = (_requests(end) for end in (found.one.requests.low, found.one.requests.high))
    lines = [
        f"A user trains once: one more training of {name} would be worth best-of-{_n(float(found.one_n.low), most)} to "
        f"{_n(float(found.one_n.high), most)} and pay off after {low} to {high} requests (95% prediction interval; the "
        f"{len(found.seeds)} trainings are worth best-of {each})."
    ]
    if found.with_search is not None and found.search_flops is not None:
        requests = found.with_search.requests
        lines.append(
            f"With the search for its settings ({found.search_flops / 1e12:,.0f} TFLOP) {name} pays off after "
            f"{'at most ' if found.with_search.censored else ''}{_requests(requests.value)} requests."
        )
    return lines


def as_json(found: PayBack) -> dict[str, Any]:
    """Everything found, for `findings.json`; an infinite number is written as a string."""
    each = zip(found.seeds, found.each_n, found.each_requests, strict=True)
    return {
        "each_seed": [{"seed": seed, "equivalent_n": _json(n), "requests": _json(requests)} for seed, n, requests in each],
        "one_training": {"equivalent_n": _interval(found.one_n), "requests": _break_even(found.one)},
        "search_flops": found.search_flops,
        "requests_with_search": None if found.with_search is None else _break_even(found.with_search),
        "by_budget": [
            {
                "update": one.update,
                "training_flops": one.training_flops,
                "equivalent_n": _interval(one.equivalent_n),
                "requests": _break_even(one.requests),
            }
            for one in found.by_budget
        ],
    }


def _break_even(found: BreakEven) -> dict[str, Any]:
    return {**_interval(found.requests), "at_most": found.censored, "low_at_most": found.low_censored}


def _interval(found: Interval) -> dict[str, Any]:
    return {name: _json(float(value)) for name, value in found._asdict().items()}


def _json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _n(n: float, most: int) -> str:
    return f"{n:.3g}" if math.isfinite(n) else f"more than {most}"


def _requests(requests: Any) -> str:
    return f"{float(requests):,.0f}" if math.isfinite(requests) else "never"
