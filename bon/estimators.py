"""What best-of-n is worth, for every n at once, from one pool of N candidates a prompt.

With a prompt's N scores in ascending order, the best of a uniformly drawn n-subset is the i-th with probability
C(i-1, n-1) / C(N, n). Averaging over all subsets is unbiased for every n <= N and has the least variance of all unbiased
estimators that ignore the order of the draws (Nakano et al. 2021, appendix I; Gao et al. 2022, appendix A; the same idea as
pass@k of Chen et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _log_binomials(top: NDArray[np.int_], bottom: int) -> Array:
    """log C(top, bottom) for an array of tops; minus infinity where top < bottom."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, top.max(initial=0) + 1)))])
    inside = top >= bottom
    safe = np.where(inside, top, bottom)
    log_factorial = np.pad(log_factorial, (0, max(0, bottom + 1 - len(log_factorial))))
    value = log_factorial[safe] - log_factorial[bottom] - log_factorial[safe - bottom]
    return np.where(inside, value, -np.inf)


def subset_weights(num_candidates: int, n: int) -> Array:
    """Probability that the i-th smallest of N scores is the best of a random n-subset: [N], summing to 1.

    Computed in log space, stable to N = 100,000.

    >>> subset_weights(4, 2).round(4).tolist()    # of 6 pairs, 1, 2 and 3 have the 2nd, 3rd and 4th as their best
    [0.0, 0.1667, 0.3333, 0.5]
    """
    _check_n(n, num_candidates)
    order = np.arange(num_candidates)
    log_weights = _log_binomials(order, n - 1)
    log_weights -= log_weights.max()
    weights = np.exp(log_weights)
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


def best_of_n_mean(scores: ArrayLike, values: ArrayLike | None = None) -> Array:
    """Expected value of best-of-n for every n from 1 to N, for each prompt: [P, N], column n-1 for best-of-n.

    Args:
        scores: [P, N] what selects (the proxy reward).
        values: [P, N] what is reported of the selected candidate (the gold reward, its length, ...); the scores unless
            given. Candidates with equal scores are equally likely to be selected, so their values are averaged.

    Raises:
        ValueError: not finite, not two-dimensional, empty, or of different shapes.

    >>> best_of_n_mean([[3.0, 1.0, 2.0]]).round(4).tolist()
    [[2.0, 2.6667, 3.0]]
    """
    scores, values = _checked(scores, values)
    return _values_by_rank(scores, values) @ best_of_n_weights(scores.shape[1]).T


def best_of_n_quantile(scores: ArrayLike, quantile: float, values: ArrayLike | None = None) -> Array:
    """The quantile of the distribution of best-of-n over random n-subsets, for each prompt and n: [P, N].

    The smallest value that at least a share `quantile` of all n-subsets does not exceed.

    Raises:
        ValueError: as `best_of_n_mean`, or `quantile` is not in (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    scores, values = _checked(scores, values)
    prompts, candidates = scores.shape
    order = np.argsort(scores, axis=1, kind="stable")
    groups = _tie_groups(np.take_along_axis(scores, order, axis=1))
    ascending = np.take_along_axis(values, order, axis=1)
    by_value = np.argsort(ascending, axis=1, kind="stable")
    sorted_values = np.take_along_axis(ascending, by_value, axis=1)
    result = np.empty((prompts, candidates))
    for n in range(1, candidates + 1):
        weights = _shared(np.broadcast_to(subset_weights(candidates, n), scores.shape), groups)
        reached = np.cumsum(np.take_along_axis(weights, by_value, axis=1), axis=1)
        index = np.argmax(reached >= quantile - 1e-12, axis=1)
        result[:, n - 1] = sorted_values[np.arange(prompts), index]
    return result


def win_rate(scores: ArrayLike, n: int, opponent: ArrayLike | None = None, values: ArrayLike | None = None) -> Array:
    """Probability that best-of-n beats one response of the opponent, ties counted half, for each prompt: [P].

    Args:
        scores: [P, N] what selects.
        n: candidates to choose from.
        opponent: [P] or [P, M] values of the opponent's responses, all compared. Unless given, the opponent is one draw from
            the policy itself: all pairs of an n-subset and a candidate outside it, which is unbiased. Without ties that is
            n / (n + 1). At n = N no candidate is left outside; then the draw is compared with all N and once with
            the winner itself, (N V + 1/2) / (N + 1) for the share V of pairs won, which is N / (N + 1) without ties and 1/2
            when all are equal.
        values: [P, N] what is compared (the gold reward); the scores unless given.

    Raises:
        ValueError: as `best_of_n_mean`, n outside 1..N, or an opponent of another number of prompts.

    >>> win_rate([[1.0, 2.0, 3.0]], n=1, opponent=[2.0]).tolist()
    [0.5]
    """
    return win_rates(scores, [n], opponent, values)[:, 0]


def win_rates(
    scores: ArrayLike, ns: Sequence[int], opponent: ArrayLike | None = None, values: ArrayLike | None = None
) -> Array:
    """`win_rate` for several n at once: [P, len(ns)]."""
    scores, values = _checked(scores, values)
    prompts, candidates = scores.shape
    for n in ns:
        _check_n(n, candidates)
    if opponent is not None:
        opponent = np.asarray(opponent, dtype=np.float64)
        opponent = opponent[:, None] if opponent.ndim == 1 else opponent
        if opponent.ndim != 2 or len(opponent) != prompts or not np.isfinite(opponent).all():
            raise ValueError(f"opponent must be finite, [P] or [P, M] with P = {prompts}, got shape {opponent.shape}")
        beats = np.stack([_beats(v[:, None], o[None]).mean(1) for v, o in zip(values, opponent, strict=True)])
        return best_of_n_mean(scores, beats)[:, np.asarray(ns) - 1]
    result = np.empty((prompts, len(ns)))
    tables = {n: _pair_weights(candidates, n) for n in ns if n < candidates}
    for p in range(prompts):
        order = np.argsort(scores[p], kind="stable")
        level = _tie_groups(scores[p][order][None])[0]
        ordered = values[p][order]
        beats = _beats(ordered[:, None], ordered[None])
        inside = level[:, None] == level[None]
        wins_below = np.where(level[None] < level[:, None], beats, 0).sum(1)
        wins_above = np.where(level[None] > level[:, None], beats, 0).sum(1)
        wins_inside = np.where(inside, beats, 0).sum(1) - 0.5  # without the candidate against itself
        size = inside.sum(1)
        place = np.arange(candidates) - np.searchsorted(level, level)  # 0-based within the tie group
        others = np.maximum(size - 1, 1)
        for column, n in enumerate(ns):
            if n == candidates:
                share = _values_by_rank(scores[p][None], beats.mean(1)[np.argsort(order)][None])[0] @ subset_weights(n, n)
                result[p, column] = (n * share + 0.5) / (n + 1)
                continue
            out_below, out_above = tables[n]
            within = (place * out_below + (size - 1 - place) * out_above) / others
            low, high, same = (_shared(w[None], level[None])[0] for w in (out_below, out_above, within))
            result[p, column] = low @ wins_below + high @ wins_above + same @ wins_inside
    return result


def _pair_weights(candidates: int, n: int) -> tuple[Array, Array]:
    """Probability that the i-th smallest is the best of an n-subset and one given other candidate is the draw outside it.

    Two arrays [N]: for a given candidate that is smaller, and for one that is greater.
    """
    rank = np.arange(candidates)
    total = _log_binomials(np.array([candidates]), n)[0] + math.log(candidates - n)
    below = np.exp(_log_binomials(np.maximum(rank - 1, 0), n - 1) - total)
    below[0] = 0.0
    return below, np.exp(_log_binomials(rank, n - 1) - total)


def _beats(a: Array, b: Array) -> Array:
    return np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))


def _values_by_rank(scores: Array, values: Array) -> Array:
    """Values in ascending order of scores [P, N], averaged over groups of equal scores."""
    order = np.argsort(scores, axis=1, kind="stable")
    groups = _tie_groups(np.take_along_axis(scores, order, axis=1))
    return _shared(np.take_along_axis(values, order, axis=1), groups)


def _tie_groups(ascending: Array) -> NDArray[np.int_]:
    """Running number of the group of equal scores that each entry belongs to [P, N], from scores in ascending order."""
    return np.cumsum(np.diff(ascending, axis=1, prepend=ascending[:, :1]) > 0, axis=1)


def _shared(values: Array, groups: NDArray[np.int_]) -> Array:
    """Values [P, N] averaged within each row's groups."""
    prompts, candidates = values.shape
    if groups[:, -1].min(initial=candidates) == candidates - 1:
        return np.asarray(values)
    flat = (groups + np.arange(prompts)[:, None] * candidates).ravel()
    sums = np.bincount(flat, np.ascontiguousarray(values).ravel(), minlength=prompts * candidates)
    counts = np.bincount(flat, minlength=prompts * candidates)
    return (sums[flat] / counts[flat]).reshape(prompts, candidates)


def _check_n(n: int, num_candidates: int) -> None:
    if not 1 <= n <= num_candidates:
        raise ValueError(f"n must lie in 1..{num_candidates} (the number of candidates), got {n}")


def _checked(scores: ArrayLike, values: ArrayLike | None) -> tuple[Array, Array]:
    checked = []
    for name, array in (("scores", scores), ("values", scores if values is None else values)):
        array = np.asarray(array, dtype=np.float64)
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"{name} must be [prompts, candidates] with at least one of each, got shape {array.shape}")
        if not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite, got {array[where]} at {where} of shape {array.shape}")
        checked.append(array)
    if checked[0].shape != checked[1].shape:
        raise ValueError(f"values must have the shape of scores {checked[0].shape}, got {checked[1].shape}")
    return checked[0], checked[1]
