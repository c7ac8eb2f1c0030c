"""How often best-of-n beats one response of an opponent, for any n at once, from one pool of N candidates a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.ranks import ascending, averaged, checked_pool, group_bounds, values_by_rank
from bon.subsets import best_of_n_weights, check_n, outside_weights

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

    Costs an N x N (with an opponent N x M) comparison a prompt, whatever the number of `ns`: 512 x 1,024 for all n takes about
    7 s on one core.
    """
    scores, values = checked_pool(scores, values)
    prompts, candidates = scores.shape
    ns = [int(n) for n in ns]
    for n in ns:
        check_n(n, candidates)
    columns = np.asarray(ns, dtype=np.int_) - 1
    if opponent is not None:
        opponent = np.asarray(opponent, dtype=np.float64)
        opponent = opponent[:, None] if opponent.ndim == 1 else opponent
        if opponent.ndim != 2 or opponent.size == 0 or len(opponent) != prompts or not np.isfinite(opponent).all():
            raise ValueError(f"opponent must be finite, [P] or [P, M] with P = {prompts}, got shape {opponent.shape}")
        beats = np.stack([_beats(v, o).mean(1) for v, o in zip(values, opponent, strict=True)])
        return values_by_rank(scores, beats) @ best_of_n_weights(candidates)[columns].T
    ordered, groups, _ = ascending(scores, values)
    first, behind = group_bounds(groups)
    wins_below, wins_inside, wins_above = _wins(ordered, first, behind)
    # The winner and the draw outside: the draw is of a lower score, of a higher one, or of an equal one. Among equals the
    # candidate at `place` has `place` others below it and the rest above it.
    others = np.maximum(behind - first - 1, 1)
    place = np.arange(candidates) - first
    inside = averaged(wins_inside, groups) / others
    smaller = averaged(wins_below, groups) + place * inside
    greater = averaged(wins_above, groups) + (behind - first - 1 - place) * inside
    share = averaged((wins_below + wins_inside + wins_above + 0.5) / candidates, groups)[:, -1]
    result = np.empty((prompts, len(ns)))
    for column, n in enumerate(ns):
        if n == candidates:
            result[:, column] = (n * share + 0.5) / (n + 1)
        else:
            below, above = outside_weights(candidates, n)
            result[:, column] = smaller @ below + greater @ above
    return result


def _wins(ordered: Array, first: NDArray[np.int_], behind: NDArray[np.int_]) -> tuple[Array, Array, Array]:
    """How many candidates of lower, equal and higher score each one beats, ties half, itself left out: [P, N] each."""
    below, inside, above = np.empty_like(ordered), np.empty_like(ordered), np.empty_like(ordered)
    every = np.arange(ordered.shape[1])
    for p, values in enumerate(ordered):
        # Won against the first k by score: column k, from 0 (nobody) to N (everybody).
        won = np.cumsum(np.pad(_beats(values, values), ((0, 0), (1, 0))), axis=1)
        below[p] = won[every, first[p]]
        inside[p] = won[every, behind[p]] - below[p] - 0.5
        above[p] = won[:, -1] - won[every, behind[p]]
    return below, inside, above


def _beats(a: Array, b: Array) -> Array:
    """1 where a wins, 0.5 where they are equal, 0 where b wins: [A, B]."""
    return 0.5 * (np.greater.outer(a, b).astype(np.float64) + np.greater_equal.outer(a, b))
