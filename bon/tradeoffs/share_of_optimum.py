"""Share of the KL-regularized optimum that a method reaches: the objective it gains over the reference by the optimum's.

At one beta the objective is mean reward - beta x KL. No policy gains more of it than `kl_regularized_optimum`, so the share
tells how far a training is from done. Prompts are paired: both sides of the ratio are of the same prompts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.ranks import checked_pool
from bon.estimators.tilted import checked_betas, tilted_pool
from bon.intervals.bootstrap import jackknife
from bon.intervals.resampling import Interval
from bon.intervals.student import student_mean
from bon.tradeoffs.best_of_n_objective import best_of_n_objective
from bon.tradeoffs.optimum import OBJECTIVE_STRAIN, gained_at_least, kl_strain
from bon.tradeoffs.over_seeds import seeds_jackknife

Array = NDArray[np.float64]


class Share(NamedTuple):
    """Objective gained by a method over the optimum's.

    Attributes:
        share: mean objective gained over that of the optimum, with its interval; 1 is the optimum.
        gained: mean objective gained by the method, in units of the reward.
        optimum: mean objective gained by the optimum; where `bound` is set, a lower bound of it.
        bound: None where the pool knows the optimum. Else the share is only a bound: `upper` where the method gains (its true
            share is lower), `lower` where it loses (its true share is nearer to 0).
    """

    share: Interval
    gained: float
    optimum: float
    bound: Literal["upper", "lower"] | None


class BestOfNShare(NamedTuple):
    """The best n of best-of-n at B values of beta, and its share of the optimum.

    Attributes:
        betas: [B] price of a nat, in units of the reward.
        n: [B] the n whose mean objective is greatest.
        at_limit: [B] that n is N: a greater one may be better.
        gained: [B] its mean objective gained over the reference, with interval; a lower bound where the KL is an upper one.
        share: [B] that by the optimum's, with its interval.
        upper_bound: [B] the pool knows only a lower bound of the optimum, so the share is at most this.
        best_beta: the beta at which the share is greatest, of those without `upper_bound`; NaN where there is none.
    """

    betas: Array
    n: NDArray[np.int_]
    at_limit: NDArray[np.bool_]
    gained: Interval
    share: Interval
    upper_bound: NDArray[np.bool_]
    best_beta: float


def objective_gained(reward: ArrayLike, kl: ArrayLike, reference_reward: ArrayLike, beta: float) -> Array:
    """Reward less beta x KL, less the mean reward of the reference on the same prompt: [P], or [S, P] with training seeds.

    Args:
        reward: [P] or [S, P] mean reward of the method.
        kl: its KL from the reference in nats, of the same shape, or [P] for all seeds.
        reference_reward: [P] mean reward of the reference.
        beta: above 0, in units of the reward per nat.

    Raises:
        ValueError: other shapes, or a beta not above 0.

    >>> objective_gained([2.0, 3.0], [1.0, 1.0], [0.0, 1.0], beta=0.5).tolist()
    [1.5, 1.5]
    """
    reward, kl, reference = (np.asarray(part, dtype=np.float64) for part in (reward, kl, reference_reward))
    price = _checked_beta(beta)
    if reward.ndim not in (1, 2) or kl.shape not in (reward.shape, reward.shape[-1:]) or reference.shape != reward.shape[-1:]:
        raise ValueError(
            "reward must be [P] or [S, P], kl alike or [P], and reference_reward [P], "
            f"got shapes {reward.shape}, {kl.shape} and {reference.shape}"
        )
    return reward - price * kl - reference


def share_of_optimum(gained: ArrayLike, scores: ArrayLike, beta: float, confidence: float = 0.95) -> Share:
    """Objective gained by a method over the optimum's at the same beta, with a paired interval over prompts (and seeds).

    A ratio of means, by the jackknife over prompts; with training seeds through `seeds_jackknife`, Student's t on crossed
    random effects. Where the pool is too small for this beta (see `kl_strain`), the optimum is replaced by what it gains at
    least (see `gained_at_least`): the share is then a bound, and `bound` says so.

    Args:
        gained: [P] or [S, P] objective gained by each prompt (and seed) at this beta, as `objective_gained` gives it.
        scores: [P, N] reward of the reference's candidates on the same prompts.
        beta: above 0, in units of the reward per nat.
        confidence: nominal coverage.

    Raises:
        ValueError: different prompts, fewer than 2 of them, values that are not finite, a beta not above 0, or rewards that do
            not vary within prompts, so that there is nothing to gain.
        ModuleNotFoundError: scipy is not installed.
    """
    scores, _ = checked_pool(scores)
    gained = np.asarray(gained, dtype=np.float64)
    if gained.ndim not in (1, 2) or gained.shape[-1] != len(scores) or not np.isfinite(gained).all():
        raise ValueError(
            f"gained must be [P] or [S, P], finite, on the {len(scores)} prompts of scores, got shape {gained.shape}"
        )
    optimum, known = _optimum(scores, np.asarray([_checked_beta(beta)]))
    by_seed = gained.reshape(-1, len(scores))
    estimates, without = _ratio(by_seed[..., None], optimum[None])
    if len(by_seed) == 1:
        interval = jackknife(estimates[0], without[0], confidence)
    else:
        interval = seeds_jackknife(estimates, without, confidence)
    value = float(gained.mean())
    bound: Literal["upper", "lower"] | None = None if known[0] else "upper" if value >= 0 else "lower"
    return Share(Interval(*(part[0] for part in interval)), value, float(optimum.mean()), bound)


def best_of_n_share(
    scores: ArrayLike, betas: ArrayLike, kl: ArrayLike | None = None, confidence: float = 0.95
) -> BestOfNShare:
    """Find the best n at every beta, the share of the optimum that it reaches, and the beta at which that is greatest.

    The n is chosen on the prompts that judge it: with few of them, the share errs upwards a little. n = 1 is the reference
    itself, whose share is 0: at a great beta no n is worth its KL.

    Args:
        scores: [P, N] reward of the reference's candidates.
        betas: [B] or a scalar, above 0.
        kl: [N] or [P, N] KL of best-of-n for n = 1..N in nats; its upper bound log n - (n-1)/n unless given.
        confidence: nominal coverage.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 prompts or candidates, values that are not finite, a beta not above
            0, or rewards that do not vary within prompts.
        ModuleNotFoundError: scipy is not installed.
    """
    scores, _ = checked_pool(scores)
    betas = checked_betas(betas)
    optimum, known = _optimum(scores, betas)
    n, gained = best_of_n_objective(scores, betas, kl)
    ratio, without = _ratio(gained[None], optimum[None])
    share, mean = jackknife(ratio[0], without[0], confidence), student_mean(gained, confidence)
    best_beta = float(betas[np.argmax(np.where(known, share.value, -np.inf))]) if known.any() else float("nan")
    return BestOfNShare(betas, n, n == scores.shape[1], mean, share, ~known, best_beta)


def _optimum(scores: Array, betas: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Objective gained by the optimum [P, B], and whether the pool knows it [B]; what it gains at least where not."""
    if len(scores) < 2:
        raise ValueError(f"scores must hold at least 2 prompts, got shape {scores.shape}")
    pool = tilted_pool(scores, betas)
    known = kl_strain(pool, scores.shape[1]) <= OBJECTIVE_STRAIN
    optimum = np.where(known, pool.objective.corrected, gained_at_least(scores, betas, pool))
    if not (optimum.mean(0) > 0).all():
        raise ValueError("scores do not vary within prompts: no policy gains anything over the reference")
    return optimum, known


def _ratio(gained: Array, optimum: Array) -> tuple[Array, Array]:
    """Ratio of means over prompts [S, B], and with each prompt left out [S, P, B]."""
    top, bottom = gained.sum(1), optimum.sum(1)
    return top / bottom, (top[:, None] - gained) / (bottom[:, None] - optimum)


def _checked_beta(beta: float) -> float:
    if np.ndim(beta) != 0:
        raise ValueError(f"beta must be one number, got shape {np.shape(beta)}")
    return float(checked_betas(beta)[0])
