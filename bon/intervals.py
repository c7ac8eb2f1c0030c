"""Confidence intervals: prompts are the sampling unit; where there are several training seeds, seeds first, then prompts.

Candidates of one prompt are not independent, so they are averaged within the prompt before anything is resampled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its confidence interval; arrays where several were asked for at once."""

    value: Array
    low: Array
    high: Array


class Difference(NamedTuple):
    """A paired difference a - b with its interval and two-sided bootstrap p-value for no difference."""

    value: float
    low: float
    high: float
    p_value: float


def bootstrap_mean(values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000) -> Interval:
    """Percentile bootstrap of the mean over prompts (Efron 1979).

    Args:
        values: [P] or [P, K] a number for each prompt (and each of K quantities, resampled together).
        rng: the randomness; the same state gives the same interval.
        confidence: nominal coverage.
        resamples: bootstrap samples.

    Returns:
        Interval of scalars, or of arrays [K].

    Raises:
        ValueError: fewer than 2 prompts, or values that are not finite.
    """
    values = _checked(values, "values")
    means = _resample_counts(len(values), resamples, rng) @ values
    low, high = np.quantile(means, _tails(confidence), axis=0)
    return Interval(values.mean(0), low, high)


def bootstrap_seeds_mean(
    values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """Bootstrap of a mean over training seeds and prompts: seeds are resampled, then one set of prompts for all of them.

    Args:
        values: [S, P] or [S, P, K], a number for each training seed and prompt. With S = 1 only prompts are resampled.
        rng: the randomness.
        confidence: nominal coverage.
        resamples: bootstrap samples.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (2, 3):
        raise ValueError(f"values must be [seeds, prompts] or [seeds, prompts, quantities], got shape {values.shape}")
    for seed in values:
        _checked(seed, "values")
    seeds, prompts = values.shape[:2]
    seed_counts = _resample_counts(seeds, resamples, rng)
    prompt_counts = _resample_counts(prompts, resamples, rng)
    means = np.einsum("rs,rp,sp...->r...", seed_counts, prompt_counts, values, optimize=True)
    low, high = np.quantile(means, _tails(confidence), axis=0)
    return Interval(values.mean((0, 1)), low, high)


def paired_difference(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Difference:
    """Mean of a - b over common prompts: the difference of each prompt is what is resampled.

    Args:
        a, b: [P] numbers of two methods on the same prompts in the same order.
        rng: the randomness.
        confidence: nominal coverage.
        resamples: bootstrap samples; the p-value is at least 1 / (resamples + 1).

    Raises:
        ValueError: different shapes, fewer than 2 prompts, or values that are not finite.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a and b must be [P] on the same prompts, got shapes {a.shape} and {b.shape}")
    difference = a - b
    means = _resample_counts(len(a), resamples, rng) @ difference
    low, high = np.quantile(means, _tails(confidence))
    # Two-sided, by inverting the percentile interval; +1 keeps it off zero (Davison and Hinkley 1997, Eq. 4.11).
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_value = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Difference(float(difference.mean()), float(low), float(high), float(p_value))


def jackknife(estimate: float, without: ArrayLike, confidence: float = 0.95) -> Interval:
    """Normal interval from the delete-one jackknife (Tukey 1958), for statistics that repeats in a bootstrap would bias.

    Args:
        estimate: the statistic on all P prompts.
        without: [P] the statistic with each prompt left out.
        confidence: nominal coverage.
    """
    from scipy.stats import norm

    without = _checked(without, "without")
    count = len(without)
    error = np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))
    reach = norm.ppf(0.5 + confidence / 2) * error
    return Interval(*(np.asarray(part, dtype=np.float64) for part in (estimate, estimate - reach, estimate + reach)))


def minimum_detectable_difference(differences: ArrayLike, power: float = 0.8, confidence: float = 0.95) -> float:
    """The true mean difference that a paired study of this size would find significant with this power (normal theory).

    Args:
        differences: [P] paired differences of a run.
        power: probability of detection.
        confidence: 1 - the two-sided significance level.
    """
    from scipy.stats import norm

    differences = _checked(differences, "differences")
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float((norm.ppf(0.5 + confidence / 2) + norm.ppf(power)) * error)


def _resample_counts(size: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each of `size` units is in each bootstrap sample, as shares: [resamples, size], rows summing to 1."""
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples) / size


def _tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2, (1 + confidence) / 2


def _checked(values: ArrayLike, name: str) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) < 2:
        raise ValueError(f"{name} must hold at least 2 prompts in its first dimension, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite")
    return values
