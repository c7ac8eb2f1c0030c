"""Chi-squared pessimism: rules that do not get worse with more candidates when the reward is wrong in its tail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.estimators.thresholds import excess_threshold
from bon.selection.rule import SelectionRule, check_at_least, scores_of


@dataclass(frozen=True)
class ChiSquaredBestOfN(SelectionRule):
    """Candidate i with probability max(r_i - threshold, 0) / (N * coefficient): the chi-squared optimum on the pool.

    The threshold makes these sum to 1. They maximise sum_i p_i r_i - coefficient * D over all p on the pool, where
    D = mean((N p_i - 1)^2) / 2 is the chi-squared divergence from the uniform choice. Probability grows no faster than the
    score: a single score that is far too high takes less than it would of an exponential.

    What `InferenceTimePessimism` draws from, with the pool in the place of the policy. It needs no second set of candidates
    and no rejection, and has less variance; the theorems of the paper are about the other.

    Source: Huang, Block, Liu, Jiang, Krishnamurthy and Foster 2025, Is best-of-N the best of them? Coverage, scaling, and
    optimality in inference-time alignment, arXiv:2503.21878.

    Attributes:
        coefficient: beta > 0, in units of the score. Towards 0 it is hard best-of-n; above (mean - lowest score) every
            candidate keeps some probability; a very large one is the policy itself.
        by: the score that selects.
    """

    coefficient: float
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("coefficient", self.coefficient, 0.0, strictly=True)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """The optimum [P, N]."""
        scores = scores_of(candidates, self.by)
        above = np.maximum(scores - excess_threshold(scores, self.coefficient)[:, None], 0.0)
        return above / above.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class InferenceTimePessimism(SelectionRule):
    """Rejection sampling from the chi-squared-regularised policy (Huang et al. 2025; source at `ChiSquaredBestOfN`).

    With coefficient beta, from two sets of m candidates and one more:

    1. On the first set solve mean(max(r - lambda, 0)) / beta = 1 for lambda.
    2. w(y) = max(r(y) - lambda, 0) / beta and M = (max_reward - lambda) / beta.
    3. Go through the second set and return the first y that is accepted, each with probability min(w(y) / M, 1).
    4. If none is, return the last candidate, whatever its score.

    A pool of N holds m = (N - 1) // 2 of each; an even pool leaves its last candidate unread. The choice depends on the
    order of the draws, which is exchangeable. Step 4 is not rare where m * P(accept) is small: P(accept) is about 1 / M, so
    m should be a few times M.

    Attributes:
        coefficient: beta > 0, in units of the score.
        max_reward: the greatest score that can occur, R_max of the paper; the greatest of the first set unless given.
        by: the score that selects.
    """

    coefficient: float
    max_reward: float | None = None
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("coefficient", self.coefficient, 0.0, strictly=True)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """Probability of each candidate given the pool [P, N]: those of the first set have none.

        Raises:
            ValueError: fewer than 3 candidates, a `max_reward` below a score of the first set, or no such score.
        """
        scores = scores_of(candidates, self.by)
        size = (scores.shape[1] - 1) // 2
        if size < 1:
            raise ValueError(f"InferenceTimePessimism needs at least 3 candidates a prompt, got {scores.shape[1]}")
        first, second = scores[:, :size], scores[:, size : 2 * size]
        greatest = first.max(axis=1, keepdims=True)
        if self.max_reward is not None:
            if (greatest > self.max_reward).any():
                raise ValueError(f"max_reward is {self.max_reward}, but the pool has a score of {greatest.max()}")
            greatest = np.full_like(greatest, self.max_reward)
        threshold = excess_threshold(first, self.coefficient)[:, None]
        accept = np.clip((second - threshold) / (greatest - threshold), 0.0, 1.0)
        unaccepted = np.cumprod(1.0 - accept, axis=1)
        probabilities = np.zeros(scores.shape)
        probabilities[:, size : 2 * size] = accept * np.hstack([np.ones_like(threshold), unaccepted[:, :-1]])
        probabilities[:, 2 * size] = unaccepted[:, -1]
        return probabilities
