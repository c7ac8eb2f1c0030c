"""Coverage of the intervals: simulated studies whose truth is known, and how often a nominal 95% interval holds it.

A study has prompts that differ in level, in how much a better candidate gains (skewed) and in how many candidates tie. Every
truth is a closed form over all prompts that could have been drawn.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from tabulate import tabulate

from bon.estimators import best_of_n_mean, win_rate
from bon.intervals import Interval, bootstrap_mean, paired_difference
from bon.kl import best_of_n_kl_bound
from bon.tradeoffs.frontier import Frontier, difference_at, equivalent_n
from suite.config.coverage import CoverageConfig
from suite.studies.held import Held
from suite.studies.trainings_coverage import of_optimum, of_trainings

LEVELS = (2, 5, 20)
"""How many scores a prompt's candidates can have, for the win rate: many, some or few ties, each in a third of the prompts."""


@dataclass(frozen=True)
class Coverage:
    """Result of one interval."""

    quantity: str
    method: str
    covered: float
    """Share of studies whose interval holds the truth."""
    error: float
    """Standard error of that share."""
    truth: float
    median_value: float
    """Median over studies of the estimate itself."""
    median_width: float


def measure(config: CoverageConfig) -> list[Coverage]:
    """All intervals in all studies."""
    held: dict[tuple[str, str], list[Held]] = {}
    for number in range(config.studies):
        for one in study(config, np.random.default_rng([config.seed, number])):
            held.setdefault((one.quantity, one.method), []).append(one)
    return [_summary(several) for several in held.values()]


def study(config: CoverageConfig, rng: np.random.Generator) -> Iterator[Held]:
    """Every interval of one simulated study."""
    prompts, n = config.num_prompts, config.n
    level, slope = rng.normal(size=(prompts, 1)), rng.exponential(size=(prompts, 1))
    proxy = rng.random((prompts, config.num_candidates))
    gold = level + slope * proxy + 0.5 * rng.normal(size=proxy.shape)
    curve = best_of_n_mean(proxy, gold)
    # The greatest of n uniforms has mean n / (n + 1), the mean slope is 1.
    best = n / (n + 1)
    yield from _means("reward of the base policy", curve[:, 0], 0.5, config, rng)
    yield from _means(f"reward of best-of-{n}", curve[:, n - 1], best, config, rng)

    tuned = level[:, 0] + 0.75 + 0.3 * rng.normal(size=prompts)
    difference = paired_difference(curve[:, n - 1], tuned, rng, resamples=config.resamples)
    yield Held(f"best-of-{n} minus a tuned policy", "paired percentile", best - 0.75, difference)
    kl = best_of_n_kl_bound(np.arange(1, config.num_candidates + 1))
    at = Frontier(kl[[n - 1]], tuned[:, None])
    matched = difference_at(Frontier(kl, curve), at, rng, resamples=config.resamples)
    yield Held("the same at equal KL", "percentile", best - 0.75, Interval(*(part[0] for part in matched.pointwise)))
    # n / (n + 1) = 0.75 at n = 3.
    yield Held(
        "equivalent n of the tuned policy", "percentile", 3.0, equivalent_n(curve, tuned, rng, resamples=config.resamples)
    )

    sizes = rng.choice(LEVELS, prompts)
    tied = rng.integers(0, sizes[:, None], proxy.shape).astype(float)
    yield from _means(f"win rate of best-of-{n}", win_rate(tied, n), win_truth(n), config, rng)

    yield from of_optimum(config, rng)
    for seeds in config.seeds:
        for spread in config.seed_spreads:
            yield from of_trainings(config, seeds, spread, rng)


def win_truth(n: int) -> float:
    """Probability that best-of-n beats one draw, ties half, where scores are uniform on k levels, k uniform in LEVELS."""
    rates = []
    for levels in LEVELS:
        ranks = np.arange(levels + 1) / levels
        rates.append(np.diff(ranks**n) @ (ranks[:-1] + 0.5 / levels))
    return float(np.mean(rates))


def table(found: Sequence[Coverage], config: CoverageConfig) -> str:
    """The coverages as a Markdown table with its caption."""
    rows = [[one.quantity, one.method, f"{one.covered:.1%}", f"{one.error:.1%}", f"{one.median_width:.3g}"] for one in found]
    headers = ["quantity", "interval", "covered", "standard error", "median width"]
    caption = (
        f"Share of {config.studies} simulated studies whose nominal 95% interval holds the truth: {config.num_prompts} "
        f"prompts, {config.num_candidates} candidates each, {config.resamples} bootstrap samples. Training seeds: their means "
        f"have {', '.join(f'{spread:g}' for spread in config.seed_spreads)} times the prompts' standard deviation and a "
        f"skewness of {config.seed_skewness:g}; those of the frontier have 0.6 to 1.3 times. With 3 to 5 seeds that skewed, "
        "no interval from their spread holds 95%: read intervals over seeds as holding what stands here."
    )
    return f"{caption}\n\n{tabulate(rows, headers=headers, tablefmt='github', disable_numparse=True)}"


def write_csv(found: Sequence[Coverage], path: Path) -> None:
    """A row an interval."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Coverage)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in found)


def _means(
    quantity: str, values: np.ndarray, truth: float, config: CoverageConfig, rng: np.random.Generator
) -> Iterator[Held]:
    yield Held(quantity, "percentile", truth, bootstrap_mean(values, rng, resamples=config.resamples))
    yield Held(quantity, "BCa", truth, bootstrap_mean(values, rng, resamples=config.resamples, method="bca"))


def _summary(several: Sequence[Held]) -> Coverage:
    first = several[0]
    values, low, high = np.array([one.interval[:3] for one in several], dtype=np.float64).T
    covered = float(np.mean((low <= first.truth) & (first.truth <= high)))
    # An equivalent n beyond the pool has an interval from infinity to infinity: it tells nothing, so it is infinitely wide.
    width = high - np.where(np.isfinite(low), low, 0.0)
    return Coverage(
        quantity=first.quantity,
        method=first.method,
        covered=covered,
        error=math.sqrt(covered * (1 - covered) / len(several)),
        truth=first.truth,
        median_value=float(np.median(values)),
        median_width=float(np.median(width)),
    )
