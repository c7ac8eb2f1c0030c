"""Over-optimisation of a proxy: the fits of Gao et al. (2022), and whether gold falls while proxy still rises.

With d = sqrt(KL) the gold reward gained over the base policy follows d (alpha - beta d) for best-of-n and
d (alpha - beta log d) for reinforcement learning (Gao, Schulman and Hilton 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.intervals.resampling import Interval, checked_prompts, resample_shares, tails

Array = NDArray[np.float64]
Form = Literal["best_of_n", "rl"]


@dataclass(frozen=True)
class OveroptimisationFit:
    """A fitted curve of gold reward gained against d = sqrt(KL).

    Attributes:
        form: `best_of_n` or `rl`.
        alpha: reward gained per unit of d at the start.
        beta: how fast that falls.
        peak: the d* of the greatest gain: alpha / (2 beta), or exp(alpha / beta - 1); infinity where the fit never turns
            down (beta not above 0). Beyond the largest d that was fitted it is an extrapolation (see `peak_is_measured`).
        residual: root mean square distance of the mean rewards from the curve: what the form does not explain.
        largest: the largest d that was fitted, mean over training seeds.
    """

    form: Form
    alpha: Interval
    beta: Interval
    peak: Interval
    residual: float
    largest: float = float("inf")

    @property
    def peak_is_measured(self) -> bool:
        """Whether the peak lies within what was fitted; beyond, all that is known is that it was not reached."""
        return bool(self.peak.value <= self.largest)

    def gain(self, kl: ArrayLike) -> Array:
        """The curve at KLs in nats, any shape; 0 at 0."""
        first, second = _basis(np.sqrt(np.asarray(kl, dtype=np.float64)), self.form)
        return self.alpha.value * first + self.beta.value * second


class Decline(NamedTuple):
    """Changes over the last half of the KL, for proxy and gold: one contrast, set before any reward is seen.

    Attributes:
        since: index of the point from which the change is taken, see `half_way`.
        since_kl: its mean KL, in nats.
        proxy: change of the proxy reward from there to the last point.
        gold: change of the gold reward.
        declines: gold falls and proxy rises, both significantly.
        each_gold: [S] the change of the gold reward of every training seed, or of the only one.
    """

    since: int
    since_kl: float
    proxy: Interval
    gold: Interval
    declines: bool
    each_gold: Array


def fit_overoptimisation(
    kl: ArrayLike, gain: ArrayLike, form: Form, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> OveroptimisationFit:
    """Least squares of Gao et al.'s form through K points, intervals by resampling prompts.

    Both forms are linear in alpha and beta. Every point weighs the same, so give points evenly spread in d: powers of two for
    best-of-n rather than every n. Intervals tell how the prompts scatter, not whether the form is right (see `residual`), nor
    how training seeds differ.

    Args:
        kl: [K] or [P, K] KL from the base policy, in nats. Gao et al. use log n - (n-1)/n for best-of-n.
        gain: [P, K] gold reward minus that of the base policy on the same prompt, so that no KL means no gain.
        form: `best_of_n`, d (alpha - beta d), or `rl`, d (alpha - beta log d).
        rng: the randomness.
        confidence: nominal coverage.
        resamples: bootstrap samples.

    Raises:
        ValueError: shapes that do not fit, fewer than 2 prompts or than 2 points with different KL above 0, a negative KL,
            values that are not finite, or another form.

    >>> kl = np.array([1.0, 4.0, 9.0])
    >>> fit = fit_overoptimisation(kl, np.tile([0.9, 1.6, 2.1], (5, 1)), "best_of_n", np.random.default_rng(0))
    >>> [round(float(part.value), 4) for part in (fit.alpha, fit.beta, fit.peak)]    # d (1 - d / 10)
    [1.0, 0.1, 5.0]
    """
    if form not in ("best_of_n", "rl"):
        raise ValueError(f"form must be best_of_n or rl, got {form!r}")
    gain = checked_prompts(gain, "gain")
    kl = np.asarray(kl, dtype=np.float64)
    if gain.ndim != 2 or kl.shape not in (gain.shape, gain.shape[1:]):
        raise ValueError(f"gain must be [P, K] and kl [K] or [P, K], got shapes {gain.shape} and {kl.shape}")
    mean_kl = kl.mean(0) if kl.ndim == 2 else kl
    if not np.isfinite(kl).all() or (mean_kl < -1e-9).any():
        raise ValueError(f"kl must be finite and not negative in the mean, got a smallest mean of {mean_kl.min()}")
    if len(np.unique(mean_kl[mean_kl > 0])) < 2:
        raise ValueError(f"kl must hold at least 2 different values above 0, got {mean_kl.tolist()}")
    ends = tails(confidence)
    prompts = len(gain)
    shares = np.concatenate([np.full((1, prompts), 1 / prompts), resample_shares(prompts, resamples, rng)])
    distance = np.sqrt(np.maximum(shares @ np.broadcast_to(kl, gain.shape), 0.0))
    gains = shares @ gain
    both, off = fitted(distance, gains, form)
    alpha, beta = both.T
    peak = peak_distance(alpha, beta, form)
    # An infinite peak cannot be interpolated with.
    parts = [Interval(part[0], *np.quantile(part[1:], ends, method="inverted_cdf")) for part in (alpha, beta, peak)]
    residual = float(np.sqrt(np.mean(off[0] ** 2)))
    return OveroptimisationFit(form, parts[0], parts[1], parts[2], residual, float(distance[0].max()))


def fitted(distance: Array, gains: Array, form: Form) -> tuple[Array, Array]:
    """alpha and beta of R curves [R, 2] by least squares, and what they leave [R, K]; d = sqrt(KL) and gains are [R, K]."""
    basis = np.stack(_basis(distance, form), axis=-1)
    moments = np.swapaxes(basis, 1, 2) @ basis
    both = np.asarray(np.linalg.solve(moments, np.swapaxes(basis, 1, 2) @ gains[..., None])[..., 0], dtype=np.float64)
    return both, gains - (basis @ both[..., None])[..., 0]


def gold_decline(
    kl: ArrayLike, proxy: ArrayLike, gold: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Decline:
    """Whether the gold reward falls over the last half of the KL while the proxy reward goes on rising.

    The peak of a noisy curve is where noise is kind to it, so a fall from it is found too often, and intervals that allow for
    every point that the peak could have been find hardly any. So one contrast is set before any reward is seen: the last
    point against the one at half its KL (`half_way`). A decline within the first half, or one that begins late, it misses.

    Args:
        kl: [K] or [P, K] KL from the base policy, in nats, at K points of growing optimisation.
        proxy, gold: [P, K] rewards there: n = 1, 2, 4, ... or checkpoints in turn.
        rng: the randomness.
        confidence: nominal coverage; a decline that is not there is found in less than (1 - confidence) / 2 of all studies.
        resamples: bootstrap samples.

    Raises:
        ValueError: different shapes, fewer than 2 prompts, or values that are not finite.
    """
    proxy, gold = checked_prompts(proxy, "proxy"), checked_prompts(gold, "gold")
    if proxy.shape != gold.shape or gold.ndim != 2 or gold.size == 0:
        raise ValueError(f"proxy and gold must be [P, K] alike, got shapes {proxy.shape} and {gold.shape}")
    kl = np.asarray(kl, dtype=np.float64)
    if kl.shape not in (gold.shape, gold.shape[1:]) or not np.isfinite(kl).all():
        raise ValueError(f"kl must be finite, and [K] or [P, K] for gold of shape {gold.shape}, got shape {kl.shape}")
    mean_kl = kl.mean(0) if kl.ndim == 2 else kl
    since = half_way(mean_kl)
    shares = resample_shares(len(gold), resamples, rng)
    found = []
    for rewards in (proxy, gold):
        change = rewards[:, -1] - rewards[:, since]
        found.append(Interval(change.mean(), *np.quantile(shares @ change, tails(confidence))))
    of_proxy, of_gold = found
    fell = bool(of_gold.high < 0 < of_proxy.low)
    return Decline(since, float(mean_kl[since]), of_proxy, of_gold, fell, np.atleast_1d(of_gold.value))


def half_way(kl: ArrayLike) -> int:
    """Index of the point whose KL [K] is nearest to half of the last one's; the earlier of two that are as near.

    >>> half_way([0.0, 1.0, 2.2, 4.0])
    2
    """
    kl = np.asarray(kl, dtype=np.float64)
    return int(np.argmin(np.abs(kl - kl[-1] / 2)))


def _basis(distance: Array, form: Form) -> tuple[Array, Array]:
    """What alpha and beta multiply."""
    if form == "best_of_n":
        return distance, -(distance**2)
    return distance, -distance * np.log(np.where(distance > 0, distance, 1.0))


def peak_distance(alpha: Array, beta: Array, form: Form) -> Array:
    """The d of the greatest gain, infinity where the curve never turns down."""
    turns = beta > 0
    safe = np.where(turns, beta, 1.0)
    if form == "best_of_n":
        return np.where(turns, np.maximum(alpha / (2 * safe), 0.0), np.inf)
    with np.errstate(over="ignore"):
        return np.where(turns, np.exp(alpha / safe - 1), np.inf)
