"""Which candidate is the best of a random n-subset of N: weights over ranks, by counting, in log space.

Candidate i is the i-th smallest of N distinct scores. It is the best of C(i-1, n-1) of the C(N, n) subsets.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bon.checks import whole

Array = NDArray[np.float64]


def subset_weights(num_candidates: int, n: int) -> Array:
    """Probability that the i-th smallest of N scores is the best of a random n-subset: [N], summing to 1.

    Computed in log space, stable to N = 100,000.

    Raises:
        ValueError: n is outside 1..N.

    >>> subset_weights(4, 2).round(4).tolist()    # of 6 pairs, 1, 2 and 3 have the 2nd, 3rd and 4th as their best
    [0.0, 0.1667, 0.3333, 0.5]
    """
    check_n(n, num_candidates)
    log_weights = _log_binomials(np.arange(num_candidates), n - 1)
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def best_of_n_weights(num_candidates: int) -> Array:
    """[N, N]: row n-1 weighs the N scores in ascending order for best-of-n (Nakano et al. 2021).

    >>> best_of_n_weights(3).round(4).tolist()
    [[0.3333, 0.3333, 0.3333], [0.0, 0.3333, 0.6667], [0.0, 0.0, 1.0]]

    Raises:
        ValueError: `num_candidates` is below 1.
    """
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, got {num_candidates}")
    return np.stack([subset_weights(num_candidates, n) for n in range(1, num_candidates + 1)])


def outside_weights(num_candidates: int, n: int) -> tuple[Array, Array]:
    """Probability that the i-th smallest is the best of an n-subset and one given other candidate is the draw outside it.

    Two arrays [N]: for a given candidate that is smaller, and for one that is greater. n must be below N.
    """
    rank = np.arange(num_candidates)
    total = _log_binomials(np.array([num_candidates]), n)[0] + math.log(num_candidates - n)
    below = np.exp(_log_binomials(np.maximum(rank - 1, 0), n - 1) - total)
    below[0] = 0.0
    return below, np.exp(_log_binomials(rank, n - 1) - total)


def disjoint_weights(num_candidates: int, n: int) -> tuple[Array, Array]:
    """For two disjoint random n-subsets: P(one has its best at i, the other at j) = lower[i] * upper[j] for i < j.

    lower[i] = C(i-1, n-1) / C(N, n) and upper[j] = C(j-1-n, n-1) / C(N-n, n), ranks from 1: two arrays [N]. Two disjoint
    subsets are two independent draws of best-of-n, so averages over them are unbiased for products of two.
    n must be at most N / 2.
    """
    rank = np.arange(num_candidates)
    lower = _log_binomials(rank, n - 1) - _log_binomials(np.array([num_candidates]), n)
    upper = _log_binomials(np.maximum(rank - n, 0), n - 1) - _log_binomials(np.array([num_candidates - n]), n)
    return np.exp(lower), np.where(rank >= n, np.exp(upper), 0.0)


def check_n(n: int, num_candidates: int) -> None:
    """Refuse an n outside 1..N, or one that is not whole."""
    if not 1 <= whole("n", n) <= num_candidates:
        raise ValueError(f"n must lie in 1..{num_candidates} (the number of candidates), got {n}")


def _log_binomials(top: NDArray[np.int_], bottom: int) -> Array:
    """log C(top, bottom) for an array of tops; minus infinity where top < bottom."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, top.max(initial=0) + 1)))])
    inside = top >= bottom
    safe = np.where(inside, top, bottom)
    log_factorial = np.pad(log_factorial, (0, max(0, bottom + 1 - len(log_factorial))))
    value = log_factorial[safe] - log_factorial[bottom] - log_factorial[safe - bottom]
    return np.where(inside, value, -np.inf)
