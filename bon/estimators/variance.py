"""How far the all-n estimate of one prompt may be off because only N candidates were drawn.

The estimate of best-of-n is a U-statistic of order n (Hoeffding 1948). This is the variance over candidates within a prompt.
It tells whether more candidates would help; the interval of a mean over prompts already contains it, so never add the two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.ranks import ascending, averaged, checked_pool, group_bounds
from bon.estimators.subsets import best_of_n_weights, disjoint_weights, subset_weights

Array = NDArray[np.float64]


def best_of_n_variance(scores: ArrayLike, values: ArrayLike | None = None) -> Array:
    """Unbiased estimate of the variance of `best_of_n_mean` over the draw of N candidates, for each prompt and n: [P, N].

    U^2 minus the mean of h(A) h(B) over all pairs of disjoint n-subsets A, B, where U is the estimate and h the value of a
    subset's best: the second term is unbiased for the square of the truth. No unbiased estimate exists for n > N / 2
    (Hoeffding 1948): NaN there.

    Noisy: with 32 normal scores its own standard deviation is 0.5 of its mean at n = 4 and 1.35 of it at n = 16. Average it
    over prompts. For one prompt's error, and beyond N / 2, there is `best_of_n_standard_error`.

    Args:
        scores, values: as in `best_of_n_mean`.

    Raises:
        ValueError: as `best_of_n_mean`.

    >>> round(float(best_of_n_variance([[1.0, 2.0, 3.0, 4.0]])[0, 0]), 4)    # n = 1: s^2 / N
    0.4167
    """
    scores, values = checked_pool(scores, values)
    ordered, groups, _ = ascending(scores, values - values.mean(1, keepdims=True))  # centred: the difference cancels less
    shared = averaged(ordered, groups)
    estimate = shared @ best_of_n_weights(scores.shape[1]).T
    first, behind = group_bounds(groups)
    size = behind - first
    # Two winners of one tie group are different candidates: the mean of their product is not the square of the mean.
    tied = np.where(size > 1, (size * shared**2 - averaged(ordered**2, groups)) / np.maximum(size - 1, 1) - shared**2, 0.0)
    result = np.full(scores.shape, np.nan)
    for n in range(1, scores.shape[1] // 2 + 1):
        lower, upper = disjoint_weights(scores.shape[1], n)
        product = 2 * (upper * shared * _before(lower * shared)).sum(1)
        if tied.any():
            reached = _before(lower[None])[0]
            product += 2 * (upper * (reached - reached[first]) * tied).sum(1)
        result[:, n - 1] = estimate[:, n - 1] ** 2 - product
    return result


def best_of_n_standard_error(scores: ArrayLike, values: ArrayLike | None = None) -> Array:
    """Jackknife standard error of `best_of_n_mean` over the draw of N candidates, for each prompt and n: [P, N].

    The root of (N-1)/N sum_k (U_(k) - mean U_(.))^2, where U_(k) leaves candidate k out. The variance (its square) errs
    upwards on average (Efron and Stein 1981, with Hoeffding 1948: N Var U_N never grows): by 2% at
    n = N / 8 and 12% at n = N / 2 with 32 normal scores. NaN at n = N, where nothing in one pool tells how the maximum varies.
    Costs a few passes over [P, N] for every n (512 x 1,024: 22 s on one core).

    Args:
        scores, values: as in `best_of_n_mean`.

    Raises:
        ValueError: as `best_of_n_mean`.

    >>> round(float(best_of_n_standard_error([[1.0, 2.0, 3.0, 4.0]])[0, 0]), 4)    # n = 1: s / sqrt(N)
    0.6455
    """
    scores, values = checked_pool(scores, values)
    prompts, candidates = scores.shape
    ordered, groups, _ = ascending(scores, values)
    shared = averaged(ordered, groups)
    first, behind = group_bounds(groups)
    size = behind - first
    rest = np.where(size > 1, (size * shared - ordered) / np.maximum(size - 1, 1), 0.0)  # the group's mean without this one
    result = np.full((prompts, candidates), np.nan)
    for n in range(1, candidates):
        weights = subset_weights(candidates - 1, n)
        # Without candidate k the groups below keep their places, those above move down by one, and its own loses the last.
        below = np.pad(np.cumsum(np.append(weights, 0.0) * shared, axis=1), ((0, 0), (1, 0)))
        above = np.pad(np.cumsum(np.append(0.0, weights) * shared, axis=1), ((0, 0), (1, 0)))
        reached = np.append(0.0, np.cumsum(weights))
        left_out = (
            np.take_along_axis(below, first, axis=1)
            + (reached[behind - 1] - reached[first]) * rest
            + above[:, -1:]
            - np.take_along_axis(above, behind, axis=1)
        )
        result[:, n - 1] = np.sqrt((candidates - 1) * left_out.var(axis=1))
    return result


def _before(values: Array) -> Array:
    """Sum of the entries before each: [P, N]."""
    return np.cumsum(values, axis=1) - values
