"""What best-of-n is worth, for every n at once, from one pool of N candidates a prompt.

With a prompt's N scores in ascending order, the best of a uniformly drawn n-subset is the i-th with probability
C(i-1, n-1) / C(N, n). Averaging over all subsets is unbiased for every n <= N and has the least variance of all unbiased
estimators that ignore the order of the draws (Nakano et al. 2021, appendix I; Gao et al. 2022, appendix A; the same idea as
pass@k of Chen et al. 2021).

Length, log-perplexity or any other number of the selected response is `best_of_n_mean` with that number as `values`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.ranks import ascending, averaged, checked_pool, values_by_rank
from bon.estimators.subsets import best_of_n_weights, subset_weights

Array = NDArray[np.float64]


def best_of_n_mean(scores: ArrayLike, values: ArrayLike | None = None) -> Array:
    """Expected value of best-of-n for every n from 1 to N, for each prompt: [P, N], column n-1 for best-of-n.

    Unbiased for every n. Its error near n = N is large (at n = N it is the maximum of one pool): see
    `best_of_n_standard_error`, and take intervals over prompts. Costs a sort and a product [P, N] x [N, N]: 512 x 1,024 takes
    0.3 s on one core.

    Args:
        scores: [P, N] what selects (the proxy reward).
        values: [P, N] what is reported of the selected candidate (the gold reward, its length, ...); the scores unless
            given. Candidates with equal scores are equally likely to be selected, so their values are averaged.

    Raises:
        ValueError: not finite, not two-dimensional, empty, or of different shapes.

    >>> best_of_n_mean([[3.0, 1.0, 2.0]]).round(4).tolist()
    [[2.0, 2.6667, 3.0]]
    """
    scores, values = checked_pool(scores, values)
    return values_by_rank(scores, values) @ best_of_n_weights(scores.shape[1]).T


def best_of_n_quantile(scores: ArrayLike, quantile: float, values: ArrayLike | None = None) -> Array:
    """The quantile of the distribution of best-of-n over random n-subsets, for each prompt and n: [P, N].

    The smallest value that at least a share `quantile` of all n-subsets does not exceed. That distribution is unbiased for
    the law of best-of-n; its quantile is consistent, not unbiased, and at n = N it is the maximum whatever the quantile.
    Of the scores themselves it costs a sort; of other `values` one pass over [P, N] for every n (512 x 1,024: 7 s).

    Raises:
        ValueError: as `best_of_n_mean`, or `quantile` is not in (0, 1].

    >>> best_of_n_quantile([[3.0, 1.0, 2.0]], 0.5).tolist()    # of the pairs, one has 2 and two have 3 as their best
    [[2.0, 3.0, 3.0]]
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    reached_at = quantile - 1e-12  # the sum of weights that make up exactly a quantile may be an ulp short of it
    by_score = values is None
    scores, values = checked_pool(scores, values)
    prompts, candidates = scores.shape
    if by_score:
        reached = np.cumsum(best_of_n_weights(candidates), axis=1) >= reached_at
        return np.sort(scores, axis=1)[:, reached.argmax(1)]
    ordered, groups, _ = ascending(scores, values)
    by_value = np.argsort(ordered, axis=1, kind="stable")
    sorted_values = np.take_along_axis(ordered, by_value, axis=1)
    result = np.empty((prompts, candidates))
    for n in range(1, candidates + 1):
        weights = averaged(np.broadcast_to(subset_weights(candidates, n), scores.shape), groups)
        total = np.cumsum(np.take_along_axis(weights, by_value, axis=1), axis=1)
        index = np.argmax(total >= reached_at, axis=1)
        result[:, n - 1] = sorted_values[np.arange(prompts), index]
    return result
