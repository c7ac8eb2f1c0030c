"""How often best-of-n beats one response of an opponent, for any n at once, from one pool of N candidates a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.ranks import averaged, checked_pool, group_bounds, tie_groups, values_by_rank
from bon.estimators.subsets import best_of_n_weights, check_n, outside_weights

Array = NDArray[np.float64]


def win_rate(scores: ArrayLike, n: int, opponent: ArrayLike | None = None, values: ArrayLike | None = None) -> Array:
    """Probability that best-of-n beats one response of the opponent, ties counted half, for each prompt: [P].

    Args:
        scores: [P, N] what selects.
        n: candidates to choose from.
        opponent: [P] or [P, M] values of the opponent's responses, all compared. Unless given, the opponent is one draw from
            the policy itself: all pairs of an n-subset and a candidate outside it, which is unbiased. Without ties that is
            n / (n + 1). At n = N no candidate is left outside; then the draw is compared with all N and once with
            the winner itself, (N V + 1/2) / (N + 1) for the share V of pairs won, which is N / (N + 1) without ties and 1/2
            when all are equal. That last one is a convention, not an unbiased estimate.
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
    """`win_rate` for several n at once: [P, len(ns)].

    Costs sorting, not comparing all pairs: 512 x 1,024 for all n takes under a second on one core.
    """
    scores, values = checked_pool(scores, values)
    prompts, candidates = scores.shape
    for n in ns:
        check_n(n, candidates)
    ns = [int(n) for n in ns]
    columns = np.asarray(ns, dtype=np.int_) - 1
    if opponent is not None:
        opponent = np.asarray(opponent, dtype=np.float64)
        opponent = opponent[:, None] if opponent.ndim == 1 else opponent
        if opponent.ndim != 2 or opponent.size == 0 or len(opponent) != prompts or not np.isfinite(opponent).all():
            raise ValueError(f"opponent must be finite, [P] or [P, M] with P = {prompts}, got shape {opponent.shape}")
        beats = np.stack([_share_beaten(v, o) for v, o in zip(values, opponent, strict=True)])
        return values_by_rank(scores, beats) @ best_of_n_weights(candidates)[columns].T
    # Greater values first among equal scores: then whoever stands before a candidate and is smaller has a lower score.
    order = np.lexsort((-values, scores), axis=1)
    ordered, groups = np.take_along_axis(values, order, axis=1), tie_groups(np.take_along_axis(scores, order, axis=1))
    first, behind = group_bounds(groups)
    wins_below, wins_inside, wins_above = _wins(ordered, groups)
    # The winner and the draw outside: the draw is of a lower score, of a higher one, or of an equal one. Among equals the
    # candidate at `place` has `place` others below it and the rest above it.
    others = np.maximum(behind - first - 1, 1)
    place = np.arange(candidates) - first
    inside = averaged(wins_inside, groups) / others
    smaller = averaged(wins_below, groups) + place * inside
    greater = averaged(wins_above, groups) + (behind - first - 1 - place) * inside
    share = averaged((wins_below + wins_inside + wins_above + 0.5) / candidates, groups)[:, -1]
    result = np.empty((prompts, len(ns)))
    whole = columns == candidates - 1
    result[:, whole] = ((candidates * share + 0.5) / (candidates + 1))[:, None]
    if not whole.all():
        weights = np.stack([outside_weights(candidates, n) for n in columns[~whole] + 1])
        result[:, ~whole] = smaller @ weights[:, 0].T + greater @ weights[:, 1].T
    return result


def _wins(ordered: Array, groups: NDArray[np.int_]) -> tuple[Array, Array, Array]:
    """How many candidates of lower, equal and higher score each one beats, ties half, itself left out: [P, N] each.

    `ordered` are values in ascending order of scores, within a group of equal scores in descending order.
    """
    candidates = ordered.shape[1]
    place = np.arange(candidates)
    by_value = np.argsort(ordered, axis=1, kind="stable")
    ranks = np.empty_like(groups)
    np.put_along_axis(ranks, by_value, tie_groups(np.take_along_axis(ordered, by_value, axis=1)), axis=1)
    smaller, equal = _earlier(ranks)
    _, behind = group_bounds(groups)
    # Equals in score and value stand side by side.
    run_first, run_behind = group_bounds(tie_groups(np.cumsum(_differs(groups) | _differs(ranks), axis=1)))
    below = smaller + 0.5 * (equal - (place - run_first))
    inside = behind - run_behind + 0.5 * (run_behind - run_first - 1)
    run_first, run_behind = group_bounds(np.take_along_axis(ranks, by_value, axis=1))
    beaten = np.empty_like(ordered)  # among all others, whatever their scores
    np.put_along_axis(beaten, by_value, run_first + 0.5 * (run_behind - run_first - 1), axis=1)
    return below, inside, beaten - below - inside


def _differs(entries: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Whether each entry of a row differs from the one before it; the first does not."""
    return np.diff(entries, axis=1, prepend=entries[:, :1]) != 0


def _earlier(ranks: NDArray[np.int_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """How many entries before each one are smaller, and how many equal: two arrays [P, N], by sorting bit by bit.

    Two different ranks agree down to some bit and differ there: rows are split into runs that agree so far, in the order of
    the entries, and an entry with a one counts the zeros before it in its run.
    """
    candidates = ranks.shape[1]
    ranks = ranks.astype(np.min_scalar_type(candidates))  # numpy sorts short integers by their digits
    smaller, scattered = np.zeros(ranks.shape, dtype=np.int_), np.empty(ranks.shape, dtype=np.int_)
    for bit in range(candidates.bit_length()):
        order = np.argsort(ranks >> (bit + 1), axis=1, kind="stable")
        ordered = np.take_along_axis(ranks, order, axis=1)
        start, _ = group_bounds(tie_groups((ordered >> (bit + 1)).astype(np.int_)))
        zero = (ordered >> bit) & 1 == 0
        zeros = np.cumsum(zero, axis=1)
        before = zeros - np.take_along_axis(zeros - zero, start, axis=1)
        np.put_along_axis(scattered, order, np.where(zero, 0, before), axis=1)
        smaller += scattered
    order = np.argsort(ranks, axis=1, kind="stable")
    start, _ = group_bounds(tie_groups(np.take_along_axis(ranks, order, axis=1).astype(np.int_)))
    np.put_along_axis(scattered, order, np.arange(candidates) - start, axis=1)
    return smaller, scattered


def _share_beaten(values: Array, opponents: Array) -> Array:
    """The share of the opponents [M] that each value [N] beats, ties half."""
    opponents = np.sort(opponents)
    sides = (np.searchsorted(opponents, values, side="left"), np.searchsorted(opponents, values, side="right"))
    return (sides[0] + sides[1]) / (2 * len(opponents))
