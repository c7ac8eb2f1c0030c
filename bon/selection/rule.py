"""What all selection rules share: a pool in, a probability for every candidate out, one of them drawn if it must be."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates


def scores_of(candidates: Candidates, by: str) -> NDArray[np.float64]:
    """The score column `by` [P, N].

    Raises:
        ValueError: the pool has no such column; its columns are listed.
    """
    if by not in candidates.scores:
        raise ValueError(f"the pool has no score {by!r}; it has {', '.join(candidates.scores) or 'none: score it first'}")
    return candidates.scores[by]


class SelectionRule(ABC):
    """A rule that returns one candidate a prompt, each with a known probability.

    `pool.select(rule, rng)` applies it; `rule.mean(pool, "gold")` is what it returns on average, without drawing.
    """

    @abstractmethod
    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """Probability that each candidate is the one returned, given the pool: [P, N], rows sum to 1."""

    def indices(self, candidates: Candidates, rng: np.random.Generator | None = None) -> NDArray[np.int_]:
        """The candidate chosen for each prompt [P, 1], one uniform number a prompt; none where the choice is certain.

        Raises:
            ValueError: the choice is random and there is no `rng`.
        """
        probabilities = self.probabilities(candidates)
        if (probabilities.max(axis=1) == 1.0).all():
            return probabilities.argmax(axis=1)[:, None]
        if rng is None:
            raise ValueError(f"{self} chooses at random: pass rng=numpy.random.default_rng(seed)")
        cumulated = probabilities.cumsum(axis=1)
        target = rng.random(len(cumulated)) * cumulated[:, -1]
        # Rounding may put the target on the very end, which no candidate reaches.
        target = np.minimum(target, np.nextafter(cumulated[:, -1], 0.0))
        return (cumulated <= target[:, None]).sum(axis=1)[:, None]

    def mean(self, candidates: Candidates, of: str = "proxy") -> NDArray[np.float64]:
        """Expected score `of` of the candidate returned, for each prompt: [P].

        Raises:
            ValueError: there is no such score.
        """
        return (self.probabilities(candidates) * scores_of(candidates, of)).sum(axis=1)


def one_hot(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability 1 on the greatest value of each row [P, N]; of equals on the one drawn first."""
    chosen = np.zeros(values.shape)
    chosen[np.arange(len(values)), values.argmax(axis=1)] = 1.0
    return chosen


def check_at_least(name: str, value: float, low: float, strictly: bool = False) -> None:
    """Refuse a parameter that is not finite, or below `low` (or equal to it, if `strictly`)."""
    if not np.isfinite(value) or value < low or (strictly and value == low):
        raise ValueError(f"{name} must be finite and {'>' if strictly else '>='} {low:g}, got {value}")
