"""Bands that hold at several points at once: the quantile of the greatest absolute t among correlated estimates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.intervals.bootstrap import checked_seeds, seeds_standard_error
from bon.intervals.resampling import Interval, tails
from bon.optional import scipy_part

Array = NDArray[np.float64]

DRAWS = 20_000
"""Simulated estimates behind a quantile of the greatest absolute t: its standard error is about 1% of it."""


class Band(NamedTuple):
    """Estimates at M points with pointwise intervals and with a band that holds at all points at once.

    Attributes:
        value: [M] estimates.
        low, high: [M] ends of an interval for each point alone.
        band_low, band_high: [M] ends of intervals that hold together; never narrower.
    """

    value: Array
    low: Array
    high: Array
    band_low: Array
    band_high: Array

    @property
    def pointwise(self) -> Interval:
        """The intervals for each point alone."""
        return Interval(self.value, self.low, self.high)


def greatest_t(correlation: ArrayLike, freedom: float, confidence: float = 0.95) -> float:
    """Quantile of the greatest absolute t of M estimates: half the width of a simultaneous band, in standard errors.

    The estimates are multivariate t with this correlation (Hothorn, Bretz and Westfall 2008). Simulated with a seed of its
    own, so that equal input gives equal output.

    Args:
        correlation: [M, M] of the estimates.
        freedom: degrees of freedom of their common scale; infinity for normal estimates.
        confidence: probability that all M intervals hold together.

    Raises:
        ValueError: not a correlation matrix, or degrees of freedom not above 0.
        ModuleNotFoundError: scipy is not installed.

    >>> round(greatest_t([[1.0]], np.inf), 2), round(greatest_t(np.ones((3, 3)), np.inf), 1)
    (1.96, 2.0)
    """
    t = scipy_part("stats", "simultaneous bands").t

    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(np.diag(matrix), 1.0):
        raise ValueError(f"correlation must be [M, M] with ones on its diagonal, got shape {matrix.shape}")
    if not freedom > 0:
        raise ValueError(f"freedom must be above 0, got {freedom}")
    alone = float(t.ppf(tails(confidence)[1], freedom))
    if len(matrix) == 1:
        return alone
    rng = np.random.default_rng(0)
    # Points that move together make the matrix singular.
    root = np.linalg.cholesky(matrix + 1e-9 * np.eye(len(matrix)))
    normal = rng.standard_normal((DRAWS, len(matrix))) @ root.T
    scale = 1.0 if np.isinf(freedom) else np.sqrt(rng.chisquare(freedom, DRAWS) / freedom)[:, None]
    return max(alone, float(np.quantile(np.abs(normal / scale).max(1), confidence)))


def seeds_band(values: ArrayLike, confidence: float = 0.95) -> Band:
    """Means over training seeds and prompts at M points, as `seeds_mean`, and a band that holds at all of them.

    The correlation is that of the mean squares between seeds and between prompts, added; the degrees of freedom are the
    fewest of any point.

    Args:
        values: [S, P, M] a number for each training seed, prompt and point; at least 2 seeds.
        confidence: nominal coverage, of each interval and of the band.

    Raises:
        ValueError: as `seeds_mean`, or no points.
    """
    t = scipy_part("stats", "simultaneous bands").t

    values = checked_seeds(values)
    if values.ndim != 3 or values.shape[2] < 1:
        raise ValueError(f"values must be [seeds, prompts, points], got shape {values.shape}")
    mean, error, freedom = seeds_standard_error(values)
    seeds, prompts = values.shape[:2]
    by_seed, by_prompt = (values.mean(axis) - mean for axis in (1, 0))
    moments = prompts * by_seed.T @ by_seed / (seeds - 1) + seeds * by_prompt.T @ by_prompt / (prompts - 1)
    reach, far = t.ppf(tails(confidence)[1], freedom) * error, greatest_t(as_correlation(moments), freedom.min(), confidence)
    band = np.maximum(reach, far * error)
    return Band(mean, mean - reach, mean + reach, mean - band, mean + band)


def bootstrap_band(value: ArrayLike, samples: ArrayLike, confidence: float = 0.95) -> Band:
    """Percentile intervals at M points from bootstrap samples, and a band by the greatest absolute t of a sample.

    Args:
        value: [M] the estimates.
        samples: [R, M] the same of R bootstrap samples.
        confidence: nominal coverage, of each interval and of the band.

    Raises:
        ValueError: shapes that do not fit.
    """
    value, samples = np.asarray(value, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    if value.ndim != 1 or samples.ndim != 2 or samples.shape[1] != len(value):
        raise ValueError(f"value must be [M] and samples [R, M], got shapes {value.shape} and {samples.shape}")
    low, high = np.quantile(samples, tails(confidence), axis=0)
    spread = samples.std(0)
    off = np.abs(samples - value) / np.where(spread > 0, spread, np.inf)
    reach = np.quantile(off.max(1), confidence) * spread if len(value) else spread
    return Band(value, low, high, np.minimum(low, value - reach), np.maximum(high, value + reach))


def as_correlation(covariance: Array) -> Array:
    """Scale a covariance matrix to ones on its diagonal; points without any spread are independent of the others."""
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    safe = np.where(spread > 0, spread, 1.0)
    found = np.clip(covariance / np.outer(safe, safe), -1.0, 1.0)
    np.fill_diagonal(found, 1.0)
    return found
