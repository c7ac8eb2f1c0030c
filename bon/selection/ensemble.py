"""Several rewards, or a reward and the length, as one: rules for pools with more than one number a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.selection.rule import SelectionRule, check_at_least, one_hot, scores_of


@dataclass(frozen=True)
class Ensemble(SelectionRule):
    """The candidate with the highest joint score of several rewards, of equals the one drawn first.

    "mean" of the columns; "min", the worst of them; or "mean - spread", the mean less `coefficient` times the variance over
    the columns (divided by their number): the mean, worst-case and uncertainty-weighted optimisation of Coste et al. All but
    the mean hold back where rewards disagree, which is where one of them may be wrong. Columns must be on one scale.

    Source: Coste, Anwar, Kirk and Krueger 2024, Reward model ensembles help mitigate overoptimization, ICLR
    (arXiv:2310.02743), Eqs. 3 to 5.

    Attributes:
        of: names of the scores, at least 2.
        joint: "mean", "min" or "mean - spread".
        coefficient: >= 0, of the variance: in units of 1 / score. For "mean - spread" alone.
    """

    of: Sequence[str]
    joint: Literal["mean", "min", "mean - spread"] = "mean"
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.of, str) or len(set(self.of)) < 2 or len(set(self.of)) != len(self.of):
            raise ValueError(f"an ensemble needs the names of at least 2 different scores, got {self.of!r}")
        object.__setattr__(self, "of", tuple(self.of))
        if self.joint not in ("mean", "min", "mean - spread"):
            raise ValueError(f'joint must be "mean", "min" or "mean - spread", got {self.joint!r}')
        check_at_least("coefficient", self.coefficient, 0.0)

    def columns(self) -> tuple[str, ...]:
        """All columns: a candidate that lacks one takes no part."""
        return tuple(self.of)

    def scores(self, candidates: Candidates) -> NDArray[np.float64]:
        """The joint score [P, N]: `pool.with_scores(joint=rule.scores(pool))` is for estimators and other rules.

        Raises:
            ValueError: there is no such score.
        """
        each = np.stack([scores_of(candidates, name) for name in self.of])
        if self.joint == "min":
            return each.min(axis=0)
        mean = each.mean(axis=0)
        return mean if self.joint == "mean" else mean - self.coefficient * each.var(axis=0)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the candidate chosen [P, N].

        Raises:
            ValueError: there is no such score.
        """
        return one_hot(self.scores(candidates))


@dataclass(frozen=True)
class LengthRegularizedBestOfN(SelectionRule):
    """The candidate with the highest r - coefficient * length, of equals the one drawn first.

    Rewards learnt from preferences like length for its own sake (Singhal et al. 2024, A long way to go: investigating length
    correlations in RLHF, arXiv:2310.03716); a linear term takes that much of it away. Length in tokens; in characters for
    pools without tokens.

    Attributes:
        coefficient: >= 0, score a token; 0 is hard best-of-n.
        by: the score that selects.
    """

    coefficient: float
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("coefficient", self.coefficient, 0.0)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """1 for the candidate chosen [P, N].

        Raises:
            ValueError: there is no such score.
        """
        if candidates.has("lengths"):
            lengths = candidates.lengths.astype(np.float64)
        else:
            lengths = np.vectorize(len, otypes=[np.float64])(candidates.texts)
        return one_hot(scores_of(candidates, self.by) - self.coefficient * lengths)
