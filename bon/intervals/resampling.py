"""What all intervals share: their type, bootstrap samples as a matrix, and the checks of what is resampled."""

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


def resample_shares(size: int, resamples: int, rng: np.random.Generator) -> Array:
    """How often each of `size` units is in each bootstrap sample, as shares: [resamples, size], rows summing to 1.

    A product with values [size, ...] is the mean of every bootstrap sample; one matrix for several quantities resamples
    them together.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples) / size


def tails(confidence: float) -> tuple[float, float]:
    """Quantiles at the ends of an interval of this confidence."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return (1 - confidence) / 2, (1 + confidence) / 2


def checked_prompts(values: ArrayLike, name: str) -> Array:
    """A finite array [P] or [P, K] with at least 2 prompts, or an error that names it."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) < 2:
        raise ValueError(f"{name} must hold at least 2 prompts in its first dimension, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got shape {values.shape} with {np.sum(~np.isfinite(values))} that are not")
    return values
