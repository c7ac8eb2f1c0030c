"""Which n: where the gold reward of best-of-n peaks, from the prompts that have gold labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators import best_of_n_mean
from bon.intervals import Interval, bootstrap_mean
from bon.intervals.resampling import resample_shares, tails


class BestN(NamedTuple):
    """The n at which gold peaks, and what it is worth.

    Attributes:
        n: the peak of the mean curve; of equals the smallest.
        low, high: its bootstrap interval over prompts.
        value: gold reward of choosing n this way on new prompts, with its interval over prompts: each prompt is judged at the
            n that the others choose. The height of the peak itself is too high by what it was chosen for.
        curve: [N] mean gold reward of best-of-n.
    """

    n: int
    low: int
    high: int
    value: Interval
    curve: NDArray[np.float64]


def best_n(
    scores: ArrayLike, gold: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> BestN:
    """Find the n of the highest gold reward, where the proxy selects: beyond it, more candidates exploit the proxy's errors.

    The rise and fall of gold in n is Gao et al. 2022's over-optimisation; to look for its peak on a labelled sample before n
    is fixed is HedgeTune of Khalaf, Verdun, Oesterling, Lakkaraju and Calmon 2025 (arXiv:2506.19248), which does so along
    other rules' parameters. The curve is unbiased for every n. A wide interval says that the labels do not tell.

    Args:
        scores: [P, N] what selects.
        gold: [P, N] what counts, for the labelled prompts alone: `scores[labelled], gold[labelled]`.
        rng: the randomness of the bootstrap.
        confidence: nominal coverage of both intervals.
        resamples: bootstrap samples.

    Raises:
        ValueError: as `bon.estimators.best_of_n_mean`, fewer than 3 prompts, or another confidence.

    >>> rng = np.random.default_rng(0)
    >>> scores = rng.normal(size=(200, 32))
    >>> best_n(scores, -((scores - 1.0) ** 2), rng).n    # gold likes scores near 1: the best of 5 have 1.16 on average
    5
    """
    curves = best_of_n_mean(scores, gold)
    prompts = len(curves)
    if prompts < 3:
        raise ValueError(f"need at least 3 labelled prompts, got {prompts}")
    peaks = (resample_shares(prompts, resamples, rng) @ curves).argmax(axis=1) + 1
    low, high = np.quantile(peaks, tails(confidence), method="inverted_cdf")
    without = (curves.sum(axis=0) - curves).argmax(axis=1)
    value = bootstrap_mean(curves[np.arange(prompts), without], rng, confidence, resamples)
    mean = curves.mean(axis=0)
    return BestN(int(mean.argmax()) + 1, int(low), int(high), value, mean)
