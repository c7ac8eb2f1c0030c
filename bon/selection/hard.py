"""The highest scores and nothing else: hard best-of-n, and the k best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.selection.rule import SelectionRule, excluded, one_hot, scores_of


def ranking(scores: NDArray[np.float64]) -> NDArray[np.int_]:
    """Candidate indices [P, N], best first; of equals the one drawn first comes first, and those without a score last."""
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")


def top_k(candidates: Candidates, k: int, by: str = "proxy") -> Candidates:
    """The k highest-scored candidates of every prompt, best first, with every column moved together.

    Raises:
        ValueError: k is not in 1..N, or there is no such score.
    """
    return candidates.select(TopK(k, by))


def best_of_n(candidates: Candidates, n: int | None = None, by: str = "proxy") -> Candidates:
    """Hard best-of-n: the highest-scored of the first n candidates (of all unless given); [P, 1].

    Raises:
        ValueError: n is not in 1..N, or there is no such score.
    """
    return top_k(candidates.first(candidates.num_candidates if n is None else n), 1, by)


@dataclass(frozen=True)
class BestOfN(SelectionRule):
    """The candidate with the highest score; of equals the one drawn first.

    Its law over all pools, for every n at once, is in `bon.estimators`; its KL in `bon.kl`.

    Attributes:
        by: the score that selects.
    """

    by: str = "proxy"

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the highest-scored candidate, 0 for the others: [P, N]."""
        return one_hot(scores_of(candidates, self.by))


@dataclass(frozen=True)
class TopK:
    """The k candidates with the highest scores, best first: `pool.select(TopK(k))` has k candidates a prompt.

    Attributes:
        k: how many, 1..N.
        by: the score that selects.
    """

    k: int
    by: str = "proxy"

    def indices(self, candidates: Candidates, rng: np.random.Generator | None = None) -> NDArray[np.int_]:
        """Candidate indices [P, k], best first. Nothing is random.

        Raises:
            ValueError: k is not in 1..N, there is no such score, or a prompt has fewer than k candidates with one.
        """
        if not 1 <= self.k <= candidates.num_candidates:
            raise ValueError(f"k must lie in 1..{candidates.num_candidates} (the candidates drawn), got {self.k}")
        if self.by not in candidates.scores:
            scores_of(candidates, self.by)
        kept = (~excluded(candidates, [self.by])).sum(axis=1)
        if (kept < self.k).any():
            prompt = int((kept < self.k).argmax())
            raise ValueError(f"prompt {prompt} has {kept[prompt]} candidates with a score {self.by!r}, not {self.k}")
        return ranking(candidates.scores[self.by])[:, : self.k]
