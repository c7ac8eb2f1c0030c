"""What a paired study of a given size can see, and what size would see a given difference (normal theory)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from bon.intervals.resampling import checked_prompts
from bon.optional import scipy_part


def minimum_detectable_difference(differences: ArrayLike, power: float = 0.8, confidence: float = 0.95) -> float:
    """The true mean difference that a paired study of this size would find significant with this power.

    (z_(1-alpha/2) + z_power) s / sqrt(P), with s the deviation of the differences.

    Args:
        differences: [P] paired differences of a run, at least 2.
        power: probability of detection.
        confidence: 1 - the two-sided significance level.

    Raises:
        ValueError: fewer than 2 differences, one that is not finite, or a power or confidence outside 0 to 1.
    """
    deviation, count = _deviation(differences)
    return _reach(power, confidence) * deviation / math.sqrt(count)


def required_prompts(differences: ArrayLike, difference: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """The number of prompts at which a paired study finds a true mean difference significant with this power.

    ((z_(1-alpha/2) + z_power) s / difference)^2, rounded up and at least 2. Below about 20 a few more are needed.

    Args:
        differences: [P] paired differences of a pilot, at least 2; only their deviation matters.
        difference: the true mean difference to be seen, of either sign and not 0.
        power: probability of detection.
        confidence: 1 - the two-sided significance level.

    Raises:
        ValueError: as `minimum_detectable_difference`, or a difference that is 0 or not finite.

    >>> required_prompts([0.0, 1.0, -1.0, 2.0, -2.0], difference=0.5)    # s = 1.58: (2.80 * 1.58 / 0.5)^2
    79
    """
    if not (math.isfinite(difference) and difference):
        raise ValueError(f"difference must be finite and not 0, got {difference}")
    deviation, _ = _deviation(differences)
    return max(2, math.ceil((_reach(power, confidence) * deviation / difference) ** 2))


def _deviation(differences: ArrayLike) -> tuple[float, int]:
    checked = checked_prompts(differences, "differences")
    if checked.ndim != 1:
        raise ValueError(f"differences must be [P], got shape {checked.shape}")
    return float(np.std(checked, ddof=1)), len(checked)


def _reach(power: float, confidence: float) -> float:
    norm = scipy_part("stats", "detectable differences").norm

    for name, share in (("power", power), ("confidence", confidence)):
        if not 0 < share < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {share}")
    return float(norm.ppf(0.5 + confidence / 2) + norm.ppf(power))
