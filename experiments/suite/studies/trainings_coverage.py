"""Simulated trainings of known truth: seeds that spread as much as prompts and are skewed, and every interval over them.

A training's effect is a number that all of its prompts share, with a gamma law of mean 0. Best-of-n gains the n-th harmonic
number: its candidates' rewards are exponential, so that the n of equal reward is known. Paths over training are straight lines
in the square root of KL, whose slope is the training's effect.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bon.estimators import best_of_n_mean
from bon.intervals import Interval, bootstrap_seeds_mean, seeds_mean, seeds_prediction
from bon.kl import best_of_n_kl_bound
from bon.tradeoffs import kl_regularized_optimum, share_of_optimum
from bon.tradeoffs.frontier import Frontier
from bon.tradeoffs.over_seeds import (
    seeds_difference,
    seeds_difference_at,
    seeds_equivalent_n,
    seeds_overoptimisation,
)
from suite.config.coverage import CoverageConfig
from suite.studies.held import Held

Array = NDArray[np.float64]

BETA = 1.25
"""Price of a nat in the simulated optimum: of standard normal rewards it lies 0.32 nats from the reference."""

WORTH = 4
"""The n that the simulated trainings are worth on average."""

PATH = np.array([0.5, 1.0, 2.0, 3.0])
"""KL of the simulated checkpoints, in nats; between them paths are straight lines in its square root."""

AT = (0.75, 1.25, 1.75)
"""KLs, in nats, at which they are compared with best-of-n."""


def of_optimum(config: CoverageConfig, rng: np.random.Generator) -> Iterator[Held]:
    """Intervals of the KL-regularized optimum of standard normal rewards: objective, KL and reward in closed form."""
    scores = rng.normal(size=(config.num_prompts, config.pool)) + rng.normal(size=(config.num_prompts, 1))
    found = kl_regularized_optimum(scores, [BETA])
    truths = {"objective": 1 / (2 * BETA), "kl": 1 / (2 * BETA**2)}
    for name, truth in truths.items():
        yield Held(f"optimum, {name}", "t over prompts", truth, _first(getattr(found, name).mean))


def of_trainings(config: CoverageConfig, seeds: int, spread: float, rng: np.random.Generator) -> Iterator[Held]:
    """Every interval over training seeds, of one study with so many of them."""
    prompts = config.num_prompts
    name = f"{seeds} seeds, spread {spread:g}"
    effects = spread * skewed(seeds, config.seed_skewness, rng)
    level = rng.normal(size=prompts)
    noise = 0.5 * rng.normal(size=(seeds, prompts))
    values = effects[:, None] + level + noise
    yield Held(f"reward, {name}", "crossed effects, t", 0.0, seeds_mean(values))
    if spread == config.seed_spreads[0]:
        resampled = bootstrap_seeds_mean(values, rng, resamples=config.resamples)
        yield Held(f"reward, {name}", "seeds, then prompts", 0.0, resampled)
    another = float(spread * skewed(1, config.seed_skewness, rng)[0])
    yield Held(f"one more training, {name}", "prediction, t", 0.0, _moved(seeds_prediction(values), another))

    proxy = rng.exponential(size=(prompts, config.num_candidates))
    curve = level[:, None] + best_of_n_mean(proxy, proxy)
    harmonic = np.cumsum(1 / np.arange(1, config.num_candidates + 1))
    targets = values + harmonic[WORTH - 1]
    yield Held(
        f"best-of-{config.n} minus, {name}", "crossed effects, t", harmonic[config.n - 1] - harmonic[WORTH - 1],
        seeds_difference(curve[:, config.n - 1], targets),
    )  # fmt: skip
    yield Held(f"equivalent n, {name}", "where differences end", float(WORTH), seeds_equivalent_n(curve, targets))

    distance = np.sqrt(PATH)
    steps = 0.5 * rng.normal(size=(seeds, prompts, len(PATH)))
    gains = (1 + effects[:, None, None]) * distance + steps
    kl = PATH + 0.1 * rng.normal(size=(seeds, prompts, len(PATH)))
    bound = best_of_n_kl_bound(np.arange(1, config.num_candidates + 1))
    found = seeds_difference_at(Frontier(bound, curve), Frontier(kl, level[:, None] + gains, in_turn=True), AT, scale="sqrt")
    truths = np.interp(np.sqrt(AT), np.sqrt(bound), harmonic) - np.sqrt(AT)
    yield Held(f"equal KL, {name}", "jackknife, t", float(truths[1]), Interval(*(part[1] for part in found[:3])))
    off = max(((found.value - truths) / np.maximum(found.band_high - found.value, 1e-12)).tolist(), key=abs)
    # All points at once: the worst of them, in half widths of its band.
    yield Held(f"equal KL at {len(AT)} points, {name}", "max-t band", 0.0, Interval(*np.array([off, off - 1, off + 1])))

    fit = seeds_overoptimisation(kl, gains - 0.2 * PATH, "best_of_n")
    yield Held(f"alpha of the fit, {name}", "jackknife, t", 1.0, fit.alpha)
    yield Held(f"beta of the fit, {name}", "jackknife, t", 0.2, fit.beta)

    scores = rng.normal(size=(prompts, config.pool))
    gained = 0.2 + 0.1 * effects[:, None] + 0.2 * (scores.mean(1) + noise)
    yield Held(f"share of the optimum, {name}", "jackknife, t", 0.2 * 2 * BETA, share_of_optimum(gained, scores, BETA).share)


def skewed(count: int, skewness: float, rng: np.random.Generator) -> Array:
    """Draws of mean 0 and variance 1 with this skewness: gamma, or normal where there is none."""
    if skewness == 0:
        return rng.normal(size=count)
    shape = 4 / skewness**2
    return np.asarray((rng.gamma(shape, size=count) - shape) / np.sqrt(shape))


def _first(interval: Interval) -> Interval:
    return Interval(*(part[0] for part in interval))


def _moved(interval: Interval, by: float) -> Interval:
    """Interval less a number that it should hold, so that the truth is 0."""
    return Interval(*(part - by for part in interval))
