"""Cost of a method, in tokens that the reward model reads and in model FLOPs, and when it pays off.

FLOPs are counted as `suite.models.flops` does. The tokens of a request are those that a perfect sampler would read: a prompt
once for all its candidates, and no padding. What training took is metered instead: every row that a model computes counts, its
padding included (about a tenth more on the embedded policy: 2.44 GFLOP a response where 2.22 are of tokens).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bon import Candidates
from bon.intervals import Interval
from suite.metrics.vocabulary import PROXY_TOKENS
from suite.models.flops import flops_per_token

Array = NDArray[np.float64]


def request_flops(pool: Candidates, policy: Any, proxy: Any) -> Array:
    """FLOPs of answering one request by best-of-n of the pool's policy, for every n and prompt: [P, N].

    The prompt is read once, every candidate's tokens but its last; for n > 1 the proxy reads all n texts. How many tokens
    that are stands in the pool; where it does not, the policy's own count is taken.

    Args:
        pool: P prompts with N candidates each.
        policy, proxy: the models.
    """
    return request_flops_at(pool, flops_per_token(policy), flops_per_token(proxy))


def request_flops_at(pool: Candidates, policy: int, proxy: int) -> Array:
    """`request_flops` where the FLOPs of one token through the policy and through the proxy are known."""
    n = np.arange(1, pool.num_candidates + 1)
    prompt = np.array([len(ids) for ids in pool.prompt_token_ids], dtype=np.float64)[:, None]
    drawing = policy * (prompt + n * (pool.lengths.mean(1, keepdims=True) - 1))
    return drawing + proxy * _read_by_proxy(pool, pool.scores.get(PROXY_TOKENS, prompt + pool.lengths))


def request_reward_tokens(pool: Candidates) -> Array | None:
    """Tokens that the proxy reads to answer one request by best-of-n, for every n and prompt: [P, N].

    One draw is not scored. None where the pool does not say what the proxy read.
    """
    return _read_by_proxy(pool, pool.scores[PROXY_TOKENS]) if PROXY_TOKENS in pool.scores else None


def _read_by_proxy(pool: Candidates, tokens: Array) -> Array:
    n = np.arange(1, pool.num_candidates + 1)
    return np.where(n > 1, n, 0) * tokens.mean(1, keepdims=True)


@dataclass(frozen=True)
class Costs:
    """In FLOPs: a tuned policy's training, a request to it, and a request by best-of-n of the base policy [N]."""

    training: float
    tuned: float
    best_of_n: Array


class BreakEven(NamedTuple):
    """After how many requests training has paid for itself; infinite where it never does.

    Attributes:
        requests: against best-of-n of equal gold reward.
        censored: best-of-n reached the tuned policy's reward with none of the n that were drawn, so that training pays off
            after at most this many.
        low_censored: so it is with the low end of the interval: the true one lies between 0 and it.
    """

    requests: Interval
    censored: bool
    low_censored: bool


def break_even(costs: Costs, equivalent_n: Interval) -> BreakEven:
    """training / (cost of a request by best-of-n of equal reward - cost of a request to the tuned policy).

    The interval is that of the equivalent n; what costs scatter is small beside it.

    Args:
        costs: of the tuned policy and of best-of-n.
        equivalent_n: the n of equal gold reward, from `bon.tradeoffs.frontier.equivalent_n`.
    """
    ns = np.arange(1, len(costs.best_of_n) + 1)

    def requests(n: float) -> float:
        saved = float(np.interp(min(n, len(ns)), ns, costs.best_of_n)) - costs.tuned
        return costs.training / saved if saved > 0 else math.inf

    # More candidates for the same reward: training pays off sooner.
    value, low, high = (np.asarray(requests(float(n))) for n in (equivalent_n.value, equivalent_n.high, equivalent_n.low))
    return BreakEven(Interval(value, low, high), math.isinf(equivalent_n.value), math.isinf(equivalent_n.high))


def seconds_spent(pool: Candidates) -> float:
    """Seconds in which the pool was drawn and read by the proxy, over all sittings."""
    return float(pool.metadata["seconds"] + pool.metadata["scoring_seconds"])


def seconds_per_candidate(pool: Candidates) -> tuple[float, float]:
    """Seconds to draw one candidate and to score it with the proxy."""
    count = pool.num_prompts * pool.num_candidates
    return pool.metadata["seconds"] / count, pool.metadata["scoring_seconds"] / count
