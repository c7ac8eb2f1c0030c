"""Best-of-n against a tuned policy at equal cost: the model FLOPs of a request, what training took left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bon import Candidates
from bon.estimators import best_of_n_mean
from bon.intervals import Interval
from bon.tradeoffs.frontier import Frontier, difference_at
from bon.tradeoffs.over_seeds import seeds_difference
from suite.metrics.evaluation import Study

Array = NDArray[np.float64]


class EqualCost(NamedTuple):
    """Best-of-n of the base policy against best-of-k of a tuned one, whose requests cost the same; k = 1 is the policy itself.

    Attributes:
        k: candidates of the tuned policy.
        n: candidates of the base policy for the same FLOPs; between two n its curve is read on a straight line. A request of
            one response is the cheapest that there is: where the tuned policy's is cheaper still (its responses are shorter),
            n is 1.
        flops: of a request to the tuned policy, mean over prompts.
        difference: reward of best-of-n minus that of best-of-k.
    """

    k: int
    n: float
    flops: float
    difference: Interval


def at_equal_flops(study: Study, tuned: Candidates, flops: Array, tuned_flops: Array, n: int) -> list[EqualCost]:
    """For k = 1, 2, 4, ... and the run's own n, as far as best-of-n was drawn; the reward is the one that evaluates.

    Args:
        study: with the base policy's pool of N candidates.
        tuned: the tuned policy's pool of K candidates.
        flops, tuned_flops: [P, N] and [P, K] of a request by best-of-n of either policy.
        n: the run's own.
    """
    ks = _counts(tuned.num_candidates, n)
    costs = tuned_flops[:, ks - 1]
    charged = costs + np.maximum(flops[:, 0].mean() - costs.mean(0), 0.0)
    rewards = _curve(tuned, study.judge)[:, ks - 1]
    best_of_n = Frontier(flops, _curve(study.base, study.judge))
    found = difference_at(best_of_n, Frontier(charged, rewards), study.rng(), resamples=study.resamples)
    return [
        EqualCost(int(k), _equal_n(flops, cost), float(cost), Interval(*parts))
        for k, cost, *parts in zip(ks, costs.mean(0), *found.pointwise, strict=True)
        if np.isfinite(parts[0])
    ]


def at_equal_flops_over_seeds(
    study: Study, tuned: Sequence[Candidates], flops: Array, tuned_flops: Sequence[Array], n: int
) -> list[EqualCost]:
    """As `at_equal_flops`, of the trainings of several seeds; the n of equal cost is that of their mean cost."""
    ks = _counts(min(pool.num_candidates for pool in tuned), n)
    curve, every = _curve(study.base, study.judge), [_curve(pool, study.judge) for pool in tuned]
    found = []
    for k in ks:
        cost = float(np.mean([each[:, k - 1].mean() for each in tuned_flops]))
        if cost > flops[:, -1].mean():
            break
        equal = _equal_n(flops, cost)
        below = int(equal)
        after = min(below, curve.shape[1] - 1)
        rewards = curve[:, below - 1] + (equal - below) * (curve[:, after] - curve[:, below - 1])
        difference = seeds_difference(rewards, np.stack([each[:, k - 1] for each in every]))
        parts = (np.asarray(part) for part in (difference.value, difference.low, difference.high))
        found.append(EqualCost(int(k), equal, cost, Interval(*parts)))
    return found


def told(found: Sequence[EqualCost], name: str, reward: str) -> str:
    """A sentence for all of them."""
    each = "; ".join(_shown(at) if at.k == 1 else f"minus its best-of-{at.k} {_shown(at)}" for at in found)
    return (
        "At equal FLOPs a request (training left out; best-of-n on straight lines between its n, at least one response) "
        f"{reward} of best-of-n minus {name}: {each}."
    )


def _shown(at: EqualCost) -> str:
    value, low, high = at.difference
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}] at n = {at.n:.3g} ({at.flops / 1e9:.3g} GFLOPs)"


def _counts(most: int, n: int) -> NDArray[np.int_]:
    return np.array(sorted({*(2**e for e in range(most.bit_length())), *([n] if n <= most else [])}))


def _curve(pool: Candidates, judge: str) -> Array:
    return best_of_n_mean(pool.scores["proxy"], pool.scores[judge])


def _equal_n(flops: Array, cost: float) -> float:
    return float(np.interp(cost, flops.mean(0), np.arange(1, flops.shape[1] + 1)))
