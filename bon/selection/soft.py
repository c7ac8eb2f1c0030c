"""Rules that hedge on the reward: soft best-of-n and best-of-Poisson."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates
from bon.estimators.subsets import subset_weights
from bon.selection.hard import ranking
from bon.selection.rule import SelectionRule, check_at_least, scores_of

#: Poisson terms below this share of the whole are left out of a sum.
_NEGLIGIBLE = 1e-17


@dataclass(frozen=True)
class SoftBestOfN(SelectionRule):
    """Candidate i with probability exp(r_i / temperature) / sum_j exp(r_j / temperature) (Verdun et al. 2025).

    As n grows this comes to the optimum of E[r] - temperature * KL(. || policy), the policy tilted by exp(r / temperature),
    at a rate of 1 / n in KL. A temperature near 0 is hard best-of-n, a high one the policy itself. With few candidates and
    a low temperature it is nearer to hard best-of-n than to the tilted policy.

    Source: Verdun, Oesterling, Lakkaraju and Calmon 2025, Soft best-of-n sampling for model alignment, arXiv:2505.03156.

    Attributes:
        temperature: lambda, > 0, in units of the score.
        by: the score that selects.
    """

    temperature: float
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("temperature", self.temperature, 0.0, strictly=True)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """The softmax of score / temperature: [P, N]."""
        scores = scores_of(candidates, self.by)
        # The maximum goes first: a tiny temperature must not overflow.
        weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / self.temperature)
        return weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class BestOfPoisson(SelectionRule):
    """Hard best-of-n with a random n = 1 + Poisson(mu) (Khalaf et al. 2025, algorithm 3).

    If x is the rank of a response's reward under the policy (uniform on [0, 1] where rewards have no ties), the density of
    what is returned is (mu x + 1) exp(mu (x - 1)): within 0.001 nats of the optimal trade of rank against KL, which hard
    best-of-n is not, and with one parameter.

    From a pool of N the n candidates are a random subset, so the i-th smallest score has probability
    sum_n P(n) C(i-1, n-1) / C(N, n). An n above N means all N: keep N above mu + 5 sqrt(mu), or the tail is cut off.

    Source: Khalaf, Verdun, Oesterling, Lakkaraju and Calmon 2025, Inference-time reward hacking in large language models,
    arXiv:2506.19248.

    Attributes:
        mu: mean of the Poisson number, >= 0; n is mu + 1 on average.
        by: the score that selects.
    """

    mu: float
    by: str = "proxy"

    def __post_init__(self) -> None:
        check_at_least("mu", self.mu, 0.0)

    def probabilities(self, candidates: Candidates) -> NDArray[np.float64]:
        """The mixture of the laws of best-of-n over random subsets: [P, N]."""
        order = ranking(scores_of(candidates, self.by))
        count = candidates.num_candidates
        by_rank = np.zeros(count)
        for n, share in enumerate(self._shares(count), start=1):
            if share > _NEGLIGIBLE:
                by_rank += share * subset_weights(count, n)
        probabilities = np.empty(order.shape)
        np.put_along_axis(probabilities, order, np.broadcast_to(by_rank[::-1], order.shape), axis=1)
        return probabilities

    def _shares(self, count: int) -> NDArray[np.float64]:
        """Probability of n = 1..N [N]; the last holds everything from N on."""
        if self.mu == 0:
            return np.eye(1, count)[0]
        terms = np.concatenate([[0.0], np.cumsum(np.log(self.mu) - np.log(np.arange(1, count)))])
        shares = np.exp(terms - self.mu)
        shares[-1] = max(0.0, 1.0 - shares[:-1].sum())
        return shares
