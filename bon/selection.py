"""Which of the drawn candidates to return. Every rule reads one scored pool and draws nothing from the policy."""

from __future__ import annotations

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


def ranking(scores: NDArray[np.float64]) -> NDArray[np.int_]:
    """Candidate indices [P, N], best first; of equals the one drawn first comes first."""
    return np.argsort(-np.asarray(scores), axis=1, kind="stable")


def top_k(candidates: Candidates, k: int, by: str = "proxy") -> Candidates:
    """The k highest-scored candidates of every prompt, best first, with every column moved together.

    Raises:
        ValueError: k is not in 1..N, or there is no such score.
    """
    if not 1 <= k <= candidates.num_candidates:
        raise ValueError(f"k must lie in 1..{candidates.num_candidates} (the candidates drawn), got {k}")
    return candidates.take(ranking(scores_of(candidates, by))[:, :k])


def best_of_n(candidates: Candidates, n: int | None = None, by: str = "proxy") -> Candidates:
    """Hard best-of-n: the highest-scored of the first n candidates (of all unless given); [P, 1].

    Raises:
        ValueError: n is not in 1..N, or there is no such score.
    """
    return top_k(candidates.first(candidates.num_candidates if n is None else n), 1, by)
