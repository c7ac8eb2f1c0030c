"""Comparison of methods at equal KL or equal cost, and the n of best-of-n that a tuned policy is worth.

A method's frontier is its mean reward against what is spent on it. Prompts are resampled jointly for both methods and for
both axes, so intervals are paired.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.intervals.resampling import Interval, checked_prompts, resample_shares, tails
from bon.intervals.simultaneous import Band, bootstrap_band

Array = NDArray[np.float64]
Scale = Literal["linear", "sqrt"]


class Frontier(NamedTuple):
    """K points of one method: a point for each n of best-of-n, or for each checkpoint or KL coefficient of a tuned policy.

    Attributes:
        cost: [K] or [P, K] what is spent, for all prompts or for each: KL in nats, tokens, FLOPs or seconds. One unit and one
            kind of KL for both methods of a comparison.
        reward: [P, K] the reward of each prompt.
        in_turn: the points are those of one training in turn, whose cost may go back: it is read where it first reaches a
            cost, as if it had been stopped there. Otherwise every point is a policy of its own, and they are sorted by cost.
    """

    cost: ArrayLike
    reward: ArrayLike
    in_turn: bool = False


def difference_at(
    a: Frontier,
    b: Frontier,
    rng: np.random.Generator,
    at: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    scale: Scale = "linear",
) -> Band:
    """Mean reward of a minus that of b at equal cost, with bootstrap intervals over common prompts: [M].

    Means over prompts are taken first, then each frontier is interpolated between its points. Nothing is extrapolated: NaN
    where a frontier does not reach. In bootstrap samples that end just short of a cost, the end is taken.

    Where one method's KL is an upper bound and the other's is measured, the first looks worse than it is: the difference is
    then a bound too. Points so sparse that the curve bends between them bias the interpolation: give every n.

    Args:
        a, b: two methods on the same prompts in the same order.
        rng: the randomness.
        at: [M] costs; at the points of b unless given (its cost moves with the prompts, and a is read at that cost).
        confidence: nominal coverage, of each interval and of the band over all M.
        resamples: bootstrap samples.
        scale: `linear` interpolates in the cost; `sqrt` in its square root, for KL: rewards begin as straight lines in the
            square root of KL (Gao et al. 2022), and straight lines in KL lie below them between sparse points.

    Raises:
        ValueError: different prompts, fewer than 2 of them, shapes that do not fit, values that are not finite, or another
            scale.

    >>> a = Frontier([0.0, 1.0, 2.0], [[0.0, 1.0, 2.0], [0.0, 1.0, 4.0]])
    >>> difference_at(a, Frontier([1.5], [[1.0], [1.0]]), np.random.default_rng(0)).value.tolist()    # (1 + 3) / 2 - 1
    [1.0]
    """
    costs_a, rewards_a = _checked(a, "a")
    costs_b, rewards_b = _checked(b, "b")
    prompts = len(rewards_a)
    if len(rewards_b) != prompts:
        raise ValueError(f"a and b must be on the same prompts, got reward shapes {rewards_a.shape} and {rewards_b.shape}")
    tails(confidence)
    # The first "sample" is the prompts themselves.
    shares = np.concatenate([np.full((1, prompts), 1 / prompts), resample_shares(prompts, resamples, rng)])
    costs_a, rewards_a, costs_b, rewards_b = (shares @ part for part in (costs_a, rewards_a, costs_b, rewards_b))
    if at is None:
        points, of_b = costs_b, rewards_b
    else:
        points = np.broadcast_to(checked_points(at), (len(shares), np.size(at)))
        of_b = interpolated(points, costs_b, rewards_b, scale, b.in_turn)
    differences = interpolated(points, costs_a, rewards_a, scale, a.in_turn) - of_b
    within = reached_by(points[0], costs_a[0]) & reached_by(points[0], costs_b[0])
    found = bootstrap_band(differences[0], differences[1:], confidence)
    return Band(*(np.where(within, part, np.nan) for part in found))


def equivalent_n(
    curve: ArrayLike, target: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """The n whose best-of-n has the same mean reward as another method, with a bootstrap interval over common prompts.

    The smallest real n at which the mean curve reaches the mean target, interpolated linearly in log n. 1 where best-of-1
    already reaches it; infinity where best-of-N does not (it is censored: N is all that is known). An end of the interval
    may be infinite. Where over-optimisation bends the curve down, only its rise counts.

    Args:
        curve: [P, N] reward of best-of-n for n = 1..N, as `best_of_n_mean(proxy, gold)` gives it.
        target: [P] reward of the other method on the same prompts.
        rng: the randomness.
        confidence: nominal coverage.
        resamples: bootstrap samples.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 prompts, or values that are not finite.

    >>> curve = np.tile([0.0, 1.0, 1.5, 2.0], (3, 1))
    >>> round(float(equivalent_n(curve, [1.75, 1.75, 1.75], np.random.default_rng(0)).value), 4)    # sqrt(3 * 4)
    3.4641
    """
    curve, target = checked_prompts(curve, "curve"), checked_prompts(target, "target")
    if curve.ndim != 2 or target.shape != curve.shape[:1]:
        raise ValueError(
            f"curve must be [P, N] and target [P] on the same prompts, got shapes {curve.shape} and {target.shape}"
        )
    ends = tails(confidence)
    shares = resample_shares(len(curve), resamples, rng)
    found = first_reached(shares @ curve, shares @ target)
    value = first_reached(curve.mean(0)[None], target.mean()[None])[0]
    # Infinite samples cannot be interpolated between.
    low, high = np.quantile(found, ends, method="inverted_cdf")
    return Interval(value, low, high)


def first_reached(curves: Array, targets: Array) -> Array:
    """Smallest real n at which each curve [R, N] reaches its target [R]: 1 to N, or infinity."""
    reached = curves >= targets[:, None]
    rows = np.arange(len(curves))
    after = reached.argmax(1)
    before = np.maximum(after - 1, 0)
    step = curves[rows, after] - curves[rows, before]
    share = (targets - curves[rows, before]) / np.where(step > 0, step, 1.0)
    log_n = np.log(before + 1) + share * (np.log(after + 1) - np.log(before + 1))
    return np.where(reached.any(1), np.where(after == 0, 1.0, np.exp(log_n)), np.inf)


def interpolated(points: Array, costs: Array, rewards: Array, scale: Scale = "linear", in_turn: bool = False) -> Array:
    """Each row's rewards [R, K] at that row's points [R, M], linear in cost or in its square root.

    Args:
        points: [R, M] costs.
        costs, rewards: [R, K] of each row, in any order unless `in_turn`.
        scale, in_turn: as in `difference_at` and `Frontier`.
    """
    if scale not in ("linear", "sqrt"):
        raise ValueError(f"scale must be linear or sqrt, got {scale!r}")
    if scale == "sqrt":
        points, costs = np.sqrt(np.maximum(points, 0.0)), np.sqrt(np.maximum(costs, 0.0))
    if in_turn:
        return _first_crossings(points, costs, rewards)
    order = np.argsort(costs, axis=1, kind="stable")
    costs, rewards = np.take_along_axis(costs, order, axis=1), np.take_along_axis(rewards, order, axis=1)
    return np.stack([np.interp(*row) for row in zip(points, costs, rewards, strict=True)])


def _first_crossings(points: Array, costs: Array, rewards: Array) -> Array:
    """Each row's rewards where its costs, in turn, first reach its points; at the greatest cost where they do not."""
    rows = np.arange(len(costs))[:, None]
    reached = costs[:, :, None] >= points[:, None, :]
    after = np.where(reached.any(1), reached.argmax(1), costs.argmax(1)[:, None])
    before = np.maximum(after - 1, 0)
    step = costs[rows, after] - costs[rows, before]
    share = np.where(step > 0, (points - costs[rows, before]) / np.where(step > 0, step, 1.0), 1.0)
    return rewards[rows, before] + np.clip(share, 0.0, 1.0) * (rewards[rows, after] - rewards[rows, before])


def reached_by(points: Array, costs: Array) -> NDArray[np.bool_]:
    """Tell which points [M] lie between the least and the greatest of the costs [K]."""
    return (points >= costs.min() - 1e-12) & (points <= costs.max() + 1e-12)


def checked_points(at: ArrayLike) -> Array:
    """Return costs [M] as a finite array, or raise a ValueError."""
    points = np.atleast_1d(np.asarray(at, dtype=np.float64))
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError(f"at must be finite and [M], got shape {points.shape}")
    return points


def _checked(frontier: Frontier, name: str) -> tuple[Array, Array]:
    """Cost and reward as [P, K] each."""
    reward = checked_prompts(frontier.reward, f"{name}.reward")
    cost = np.asarray(frontier.cost, dtype=np.float64)
    if reward.ndim != 2 or reward.size == 0 or cost.shape not in (reward.shape, reward.shape[1:]):
        raise ValueError(
            f"{name}.reward must be [P, K] and {name}.cost [K] or [P, K], got shapes {reward.shape} and {cost.shape}"
        )
    if not np.isfinite(cost).all():
        raise ValueError(f"{name}.cost must be finite, got shape {cost.shape} with {np.sum(~np.isfinite(cost))} that are not")
    return np.broadcast_to(cost, reward.shape), reward
