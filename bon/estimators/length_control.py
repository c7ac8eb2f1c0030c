"""A win rate that a longer answer does not buy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def length_controlled_win_rate(
    wins: ArrayLike, lengths: ArrayLike, opponent_lengths: ArrayLike, ridge: float = 1e-3, steps: int = 100
) -> float:
    """Win rate that would be seen if the responses were as long as the opponent's.

    Fits logit P(win) = a + b tanh((length - opponent's) / s), s being the standard deviation of those differences, and returns
    1 / (1 + exp(-a)): the probability at equal length. The model of Dubois, Galambosi, Liang and Hashimoto 2024,
    Length-controlled AlpacaEval, arXiv:2404.04475, Eq. 1, for two methods; their term for the difficulty of an instruction is
    left out, since it is fitted to many methods at once.

    For an interval, leave out each prompt in turn and give both to `bon.intervals.jackknife`.

    Args:
        wins: [P] or [P, M] preferences for the method: 1 won, 0 lost, 1/2 tied, or probabilities between.
        lengths: of the method's responses, broadcast against `wins`.
        opponent_lengths: of the opponent's.
        ridge: weight of b^2 + a^2 against the mean log-loss: keeps the fit finite where a length difference tells all.
        steps: Newton steps at most.

    Raises:
        ValueError: fewer than 2 comparisons, preferences outside 0..1, or something that is not finite.

    >>> round(length_controlled_win_rate([1.0, 1.0, 0.0, 0.0], [9, 9, 3, 3], [5, 5, 7, 7]), 6)    # always the longer one
    0.5
    """
    wins = np.asarray(wins, dtype=np.float64)
    try:
        longer = np.broadcast_to(
            np.asarray(lengths, dtype=np.float64) - np.asarray(opponent_lengths, dtype=np.float64), wins.shape
        )
    except ValueError:
        raise ValueError(f"lengths cannot be compared with wins of shape {wins.shape}") from None
    if wins.size < 2 or not (np.isfinite(wins).all() and np.isfinite(longer).all()):
        raise ValueError("need at least 2 comparisons, all finite")
    if wins.min() < 0 or wins.max() > 1:
        raise ValueError(f"wins must lie in 0..1, got {wins.min()}..{wins.max()}")
    if not (np.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge must be finite and > 0, got {ridge}")
    spread = longer.std()
    terms = np.stack([np.ones(wins.size), np.tanh(longer.ravel() / spread) if spread > 0 else np.zeros(wins.size)], axis=1)
    weights = np.zeros(2)
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-terms @ weights))
        slope = terms.T @ (chance - wins.ravel()) / wins.size + 2 * ridge * weights
        curve = (terms * (chance * (1 - chance))[:, None]).T @ terms / wins.size + 2 * ridge * np.eye(2)
        step = np.linalg.solve(curve, slope)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-12:
            break
    return 1 / (1 + math.exp(-weights[0]))
