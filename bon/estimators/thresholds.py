"""The level that scores exceed by a given amount on average: what pessimism and optimal stopping both solve for."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def excess_threshold(scores: ArrayLike, excess: float) -> NDArray[np.float64]:
    """The level t with mean(max(score - t, 0)) = excess, for each row of scores: [P, N] -> [P].

    With the scores in descending order and S_j the sum of the first j, t = max over j of (S_j - N * excess) / j: each j
    alone gives a lower bound, and the scores above t attain it.

    The same equation has two names. For a reservation value (Weitzman 1979) `excess` is what one more draw costs; for the
    normalization of a chi-squared-regularized policy (Huang et al. 2025) it is the regularization coefficient.

    Raises:
        ValueError: no score, a score that is not finite, or `excess` not positive.

    >>> float(excess_threshold([[0.0, 1.0]], 0.25)[0])    # (1 - 0.5) / 2 = 0.25
    0.5
    """
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must be [prompts, candidates] with at least one of each, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(scores))[0])
        raise ValueError(f"scores must be finite, got {scores[where]} at {where} of shape {scores.shape}")
    if not (np.isfinite(excess) and excess > 0):
        raise ValueError(f"the mean excess over a threshold must be finite and > 0, got {excess}")
    count = scores.shape[1]
    sums = np.cumsum(-np.sort(-scores, axis=1), axis=1)
    return ((sums - count * excess) / np.arange(1, count + 1)).max(axis=1)
