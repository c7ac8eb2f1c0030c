"""A method trained with several seeds against best-of-n: differences, equivalent n, equal KL, over-optimisation.

Each is what `bon.intervals`, `bon.tradeoffs.frontier` and `bon.tradeoffs.overoptimisation` say of one training. With few
training seeds a bootstrap over them is too narrow, so all intervals here are `seeds_mean`'s: Student's t on crossed random
effects. What is not a mean (a ratio, a fit, a point between two checkpoints) goes through the jackknife over prompts first.
All of them hold as often as `seeds_mean` does, which with 3 to 5 skewed seeds is less than they say: equal KL, equivalent n,
fits and shares of the optimum 82% to 86% with 3 seeds, 87% to 93% with 5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.intervals.bootstrap import Difference, seeds_mean, seeds_prediction, seeds_standard_error
from bon.intervals.resampling import Interval, checked_prompts, tails
from bon.intervals.simultaneous import Band, seeds_band
from bon.optional import scipy_part
from bon.tradeoffs.frontier import Frontier, Scale, checked_points, first_reached, interpolated, reached_by
from bon.tradeoffs.overoptimisation import Decline, Form, OveroptimisationFit, fitted, half_way, peak_distance

Array = NDArray[np.float64]

LEAST_P = 0.001
"""Smallest p-value that a few training seeds can support: it is never stated smaller, whatever t is.

The tails of t assume that seeds are normal, which 3 to 5 of them cannot show.
"""


def seeds_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean of a - b over common prompts, where b has a number for every training seed.

    Args:
        a: [P] numbers of a method that is not trained.
        b: [S, P] numbers of a trained one on the same prompts; at least 2 seeds.
        confidence: nominal coverage.

    Returns:
        The p-value is at least `LEAST_P`.

    Raises:
        ValueError: shapes that do not fit, or as `seeds_mean`.
    """
    t = scipy_part("stats", "intervals over training seeds").t

    difference = checked_prompts(a, "a") - _of_seeds(b, "b", 2)
    mean, error, freedom = (float(part) for part in seeds_standard_error(difference))
    reach = float(t.ppf(tails(confidence)[1], freedom)) * error
    p_value = float(2 * t.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)
    return Difference(mean, mean - reach, mean + reach, max(p_value, LEAST_P))


def seeds_jackknife(estimates: ArrayLike, without: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval of the mean over training seeds of any statistic, from what leaving out a prompt does to it.

    The statistic moves by a prompt's influence on it (Efron 1982). These numbers have the statistic as their mean, and
    `seeds_mean` takes them as it takes rewards. For a mean over prompts that is `seeds_mean` itself.

    Args:
        estimates: [S] or [S, K] the statistic of every training, or K of them.
        without: [S, P] or [S, P, K] the same with each prompt left out.
        confidence: nominal coverage.

    Raises:
        ValueError: shapes that do not fit, or as `seeds_mean`.
    """
    return seeds_mean(_influence(estimates, without), confidence)


def seeds_equivalent_n(curve: ArrayLike, targets: ArrayLike, confidence: float = 0.95) -> Interval:
    """The n whose best-of-n has the mean reward of a method that was trained with several seeds.

    As `frontier.equivalent_n`. The interval holds every n at which the difference between best-of-n and the method is not
    significant: it ends where the intervals of that difference first reach zero.

    Args:
        curve: [P, N] reward of best-of-n for n = 1..N.
        targets: [S, P] reward of the method for every seed, on the same prompts; at least 2 seeds.
        confidence: nominal coverage.

    Raises:
        ValueError: shapes that do not fit, or as `seeds_mean`.
    """
    curve, targets = _curve_and_targets(curve, targets)
    ahead = seeds_mean(curve - targets[..., None], confidence)
    value, low, high = first_reached(np.stack([ahead.value, ahead.high, ahead.low]), np.zeros(3))
    return Interval(value, low, high)


def predicted_equivalent_n(curve: ArrayLike, targets: ArrayLike, confidence: float = 0.95) -> Interval:
    """The n whose best-of-n has the mean reward that one more training, with a seed of its own, will have.

    As `seeds_equivalent_n` with `seeds_prediction` for `seeds_mean`: the value is the same, the interval is for one training
    and not for the mean over seeds.

    Args:
        curve: [P, N] reward of best-of-n for n = 1..N.
        targets: [S, P] reward of the method for every seed, on the same prompts; at least 2 seeds.
        confidence: probability that the interval holds the n of a new training.

    Raises:
        ValueError: as `seeds_equivalent_n`.
    """
    curve, targets = _curve_and_targets(curve, targets)
    ahead = seeds_prediction(curve - targets[..., None], confidence)
    return Interval(*first_reached(np.stack([ahead.value, ahead.high, ahead.low]), np.zeros(3)))


def each_equivalent_n(curve: ArrayLike, targets: ArrayLike) -> Array:
    """The n of equal mean reward of every single training [S]; infinity where the pool does not reach it.

    Args:
        curve: [P, N] reward of best-of-n for n = 1..N.
        targets: [S, P] reward of the method for every seed, on the same prompts.

    Raises:
        ValueError: as `seeds_equivalent_n`.
    """
    curve, targets = _curve_and_targets(curve, targets)
    return first_reached(np.tile(curve.mean(0), (len(targets), 1)), targets.mean(1))


def seeds_difference_at(a: Frontier, b: Frontier, at: ArrayLike, confidence: float = 0.95, scale: Scale = "linear") -> Band:
    """Mean reward of a minus that of b at equal cost, where b was trained with several seeds: [M].

    As `frontier.difference_at`: every seed's frontier is interpolated on its own, nothing is extrapolated, and it is NaN
    where a frontier does not reach.

    Args:
        a: cost [K] or [P, K] and reward [P, K].
        b: cost and reward [S, P, K] on the same prompts; at least 2 seeds.
        at: [M] costs.
        confidence: nominal coverage, of each interval and of the band over all M that are reached.
        scale: as in `frontier.difference_at`.

    Raises:
        ValueError: shapes that do not fit, or as `seeds_mean`.
    """
    points = checked_points(at)
    reward_a = checked_prompts(a.reward, "a.reward")
    cost_a = np.broadcast_to(np.asarray(a.cost, dtype=np.float64), reward_a.shape)
    costs_b, rewards_b = _of_seeds(b.cost, "b.cost", 3), _of_seeds(b.reward, "b.reward", 3)
    if costs_b.shape != rewards_b.shape or rewards_b.shape[1] != len(reward_a):
        raise ValueError(
            f"b must be [S, P, K] on the prompts of a, got {costs_b.shape}, {rewards_b.shape} and for a {reward_a.shape}"
        )

    def read(cost: Array, reward: Array, in_turn: bool) -> tuple[Array, NDArray[np.bool_]]:
        costs, rewards = _means_without(cost), _means_without(reward)
        everywhere = np.broadcast_to(points, (len(costs), len(points)))
        return interpolated(everywhere, costs, rewards, scale, in_turn), reached_by(points, costs[0])

    of_a, within = read(cost_a, reward_a, a.in_turn)
    of_b = []
    for cost, reward in zip(costs_b, rewards_b, strict=True):
        values, inside = read(cost, reward, b.in_turn)
        of_b.append(values)
        within = within & inside
    found = np.full((5, len(points)), np.nan)
    if within.any():
        differences = (of_a - np.stack(of_b))[..., within]
        found[:, within] = seeds_band(_influence(differences[:, 0], differences[:, 1:]), confidence)
    return Band(*found)


def seeds_overoptimisation(kl: ArrayLike, gain: ArrayLike, form: Form, confidence: float = 0.95) -> OveroptimisationFit:
    """Gao et al.'s form fitted to every training, and the mean of the fits with intervals over seeds and prompts.

    As `overoptimisation.fit_overoptimisation`. The peak is that of the mean fit; its interval is unbounded where beta may
    be 0, since the curve may then never turn.

    Args:
        kl: [S, P, K] KL from the base policy, in nats; at least 2 seeds.
        gain: [S, P, K] gold reward minus that of the base policy on the same prompt.
        form: `best_of_n` or `rl`.
        confidence: nominal coverage.

    Raises:
        ValueError: shapes that do not fit, or as `seeds_mean`.
    """
    kls, gains = _of_seeds(kl, "kl", 3), _of_seeds(gain, "gain", 3)
    if kls.shape != gains.shape:
        raise ValueError(f"kl and gain must be [S, P, K] alike, got shapes {kls.shape} and {gains.shape}")
    largest = float(np.sqrt(np.maximum(kls.mean(1), 0.0)).max(1).mean())
    parts, misses = [], []
    for one_kl, one_gain in zip(kls, gains, strict=True):
        found, off = fitted(np.sqrt(np.maximum(_means_without(one_kl), 0.0)), _means_without(one_gain), form)
        parts.append(found)
        misses.append(off[0])
    both = np.stack(parts)  # [S, 1 + P, 2]
    influence = _influence(both[:, 0], both[:, 1:])
    alpha, beta = (Interval(*(part[k] for part in seeds_mean(influence, confidence))) for k in (0, 1))
    peak = peak_distance(np.asarray(alpha.value), np.asarray(beta.value), form)
    if beta.low > 0 and alpha.value > 0:
        ratio = alpha.value / beta.value
        moved = seeds_mean(ratio + (influence[..., 0] - ratio * influence[..., 1]) / beta.value, confidence)
        ends = [peak_distance(np.asarray(end), np.asarray(1.0), form) for end in (moved.low, moved.high)]
        peaks = Interval(peak, ends[0], ends[1])
    else:
        peaks = Interval(peak, np.asarray(0.0), np.asarray(np.inf))
    return OveroptimisationFit(form, alpha, beta, peaks, float(np.sqrt(np.mean(np.square(misses)))), largest)


def seeds_gold_decline(kl: ArrayLike, proxy: ArrayLike, gold: ArrayLike, confidence: float = 0.95) -> Decline:
    """Whether the gold reward falls over the last half of the KL while the proxy goes on rising, in the mean over seeds.

    As `overoptimisation.gold_decline`: one contrast, set before any reward is seen, the same point for all seeds.

    Args:
        kl: [S, P, K] KL from the base policy at K points in turn, in nats; at least 2 seeds.
        proxy, gold: [S, P, K] rewards there.
        confidence: nominal coverage.

    Raises:
        ValueError: shapes that do not fit, or as `seeds_mean`.
    """
    kls, proxies, golds = (_of_seeds(part, name, 3) for part, name in ((kl, "kl"), (proxy, "proxy"), (gold, "gold")))
    if not kls.shape == proxies.shape == golds.shape:
        raise ValueError(
            f"kl, proxy and gold must be [S, P, K] alike, got shapes {kls.shape}, {proxies.shape} and {golds.shape}"
        )
    mean_kl = kls.mean((0, 1))
    since = half_way(mean_kl)
    changes = [rewards[..., -1] - rewards[..., since] for rewards in (proxies, golds)]
    of_proxy, of_gold = (seeds_mean(change, confidence) for change in changes)
    fell = bool(of_gold.high < 0 < of_proxy.low)
    return Decline(since, float(mean_kl[since]), of_proxy, of_gold, fell, changes[1].mean(1))


def _curve_and_targets(curve: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    curve, targets = checked_prompts(curve, "curve"), _of_seeds(targets, "targets", 2)
    if curve.ndim != 2 or targets.shape[1] != len(curve):
        raise ValueError(f"curve must be [P, N] and targets [S, P], got shapes {curve.shape} and {targets.shape}")
    return curve, targets


def _of_seeds(values: ArrayLike, name: str, dimensions: int) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != dimensions or len(values) < 2:
        wanted = ("seeds", "prompts", "points")[:dimensions]
        raise ValueError(f"{name} must be [{', '.join(wanted)}] with at least 2 seeds, got shape {values.shape}")
    return values


def _means_without(values: Array) -> Array:
    """The mean over prompts, and below it the mean with each prompt left out: [P, K] -> [1 + P, K]."""
    total, prompts = values.sum(0), len(values)
    return np.concatenate([total[None] / prompts, (total - values) / (prompts - 1)])


def _influence(estimates: ArrayLike, without: ArrayLike) -> Array:
    """Numbers a seed and prompt [S, P, ...] whose mean over prompts is the estimate and whose spread is the jackknife's."""
    estimates, without = np.asarray(estimates, dtype=np.float64), np.asarray(without, dtype=np.float64)
    if without.ndim < 2 or estimates.shape != (len(without), *without.shape[2:]):
        raise ValueError(f"estimates must be [S, ...] and without [S, P, ...], got {estimates.shape} and {without.shape}")
    return estimates[:, None] + (without.shape[1] - 1) * (without.mean(1, keepdims=True) - without)
