"""The objective that training maximizes, reward less beta x KL, and the share of its optimum that each method gains.

The base policy's candidates tell how much any policy could gain at a price of beta per nat of KL (`bon.tradeoffs.optimum`). A
method trained with a penalty in units of the reward is judged at its own price, its kl_coef. One without (best-of-n, best-of-n
SFT, GRPO, whose penalty is on another scale) is judged at the price where its share is greatest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.estimators import best_of_n_mean
from bon.intervals import Interval, seeds_mean
from bon.intervals.student import student_mean
from bon.kl import best_of_n_kl_bound
from bon.tradeoffs import (
    BestOfNShare,
    Optimum,
    Share,
    best_of_n_share,
    kl_regularized_optimum,
    objective_gained,
    optimum_at,
    share_of_optimum,
)
from suite.config.baselines import PRICED
from suite.metrics.evaluation import Study
from suite.metrics.naming import BOUNDED_SHARE
from suite.metrics.rows import Row

Array = NDArray[np.float64]
#: KLs in nats through which the curve of the optimum is drawn, as far as the pool knows it.
KLS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0)
#: KLs in nats at which best-of-n is compared with the optimum.
COMPARED = tuple(np.arange(0.5, 5.0, 0.5).tolist())


def price_of(method: str, kl_coef: float | None) -> float | None:
    """Return what a method pays for a nat, in units of the proxy reward; None where it has no such price."""
    return kl_coef if method in PRICED and kl_coef is not None and kl_coef > 0 else None


@dataclass(frozen=True)
class Yardstick:
    """Knowledge of the optimum from the base policy's candidates.

    Attributes:
        study: the base policy's pool on all P evaluation prompts.
        scores: proxy and, where there is one, gold [M, N] of the base policy's candidates on the first M of these prompts.
        prices: values of beta that the curve must hold.
    """

    study: Study
    scores: Mapping[str, Array]
    prices: Sequence[float] = ()

    @classmethod
    def of(cls, study: Study, prices: Sequence[float], larger: Mapping[str, Array] | None = None) -> Yardstick | None:
        """From a larger pool, or else the base policy's; None where rewards do not vary, or there is but one of anything."""
        scores = {name: (larger or study.base.scores)[name] for name in dict.fromkeys(("proxy", study.judge))}
        proxy = scores["proxy"]
        known = min(proxy.shape) >= 2 and bool((np.ptp(proxy, axis=1) > 0).any())
        return cls(study, scores, tuple(sorted({price for price in prices if price > 0}))) if known else None

    @property
    def proxy(self) -> Array:
        """Of the candidates: [M, N]."""
        return self.scores["proxy"]

    @cached_property
    def betas(self) -> Array:
        """Prices of a nat [B], from the smallest on: those asked for, and those that buy `KLS`, to three digits."""
        found = optimum_at(self.proxy, KLS).betas
        # Where no policy has that KL, as beyond log 2 with half of the responses at the top, rounding finds one next to 0.
        least = 1e-3 * float(np.sqrt(self.proxy.var(1).mean()))
        curve = [float(f"{beta:.3g}") for beta in found[np.isfinite(found) & (found > least)]]
        # A pool so small that it knows none of them knows that a change is worth nothing where nats are dear.
        dear = [] if curve else [float(f"{10 * np.ptp(self.proxy, axis=1).max():.3g}")]
        return np.array(sorted({*curve, *dear, *self.prices}))

    @cached_property
    def optimum(self) -> Optimum:
        """At every price."""
        return kl_regularized_optimum(self.proxy, self.betas, {name: self.scores[name] for name in self.scores})

    @cached_property
    def best_of_n(self) -> BestOfNShare:
        """The best n at every price, at the upper bound of its KL."""
        return best_of_n_share(self.proxy, self.betas)

    @property
    def best_price(self) -> int | None:
        """Place among `betas` where best-of-n's share is greatest; None where the pool knows none at which it gains."""
        known = np.flatnonzero(self.best_of_n.betas == self.best_of_n.best_beta)
        return int(known[0]) if len(known) and self.best_of_n.n[known[0]] > 1 else None


@dataclass(frozen=True)
class Gained:
    """Gain of a method at one price.

    Attributes:
        beta: price of a nat, in units of the proxy reward.
        own: that this is the price it was trained with, and not the one where its share is greatest.
        objective: mean over all prompts of the reward gained less beta x KL.
        share: that by the optimum's, on the prompts that the yardstick has.
    """

    beta: float
    own: bool
    objective: Interval
    share: Share

    @property
    def metric(self) -> str:
        """Return the metric of the share: a bound where the optimum is known from one side alone."""
        return BOUNDED_SHARE[self.share.bound]

    def rows(self, method: str, seed: int | None, step: int | None, setting: str = "") -> Iterator[Row]:
        """Price, objective and share."""
        place = (method, seed, step, 1)
        yield Row(*place, "beta", self.beta, setting=setting)
        yield _measured(place, "objective", self.objective, setting)
        yield _measured(place, self.metric, self.share.share, setting)

    def as_json(self) -> dict[str, Any]:
        """For `findings.json`."""
        return {
            "beta": self.beta,
            "own_price": self.own,
            "objective": _parts(self.objective),
            "optimum": self.share.optimum,
            "share_of_optimum": {**_parts(self.share.share), "bound": self.share.bound},
        }


def gained(yardstick: Yardstick, reward: Array, kl: Array, price: float | None) -> Gained:
    """What trainings of one setting gain; intervals over prompts, and over seeds where there are several.

    Args:
        yardstick: of the same prompts.
        reward, kl: [S, P] mean proxy reward and KL of every training on each prompt.
        price: beta; None: the one at which the share is greatest.
    """
    study, few = yardstick.study, len(yardstick.proxy)
    beta = _best_price(yardstick, reward[:, :few], kl[:, :few]) if price is None else price
    everywhere = objective_gained(reward, kl, study.base.scores["proxy"].mean(1), beta)
    of_few = objective_gained(reward[:, :few], kl[:, :few], yardstick.proxy.mean(1), beta)
    mean = study.interval(everywhere[0][:, None]) if len(reward) == 1 else seeds_mean(everywhere[..., None])
    share = share_of_optimum(of_few, yardstick.proxy, beta)
    return Gained(beta, price is not None, Interval(*(part[0] for part in mean)), share)


def _best_price(yardstick: Yardstick, reward: Array, kl: Array) -> float:
    """The price at which the share of the optimum is greatest, of those at which the optimum is known."""
    optimum, reference = yardstick.optimum.objective, yardstick.proxy.mean(1)
    shares = [
        objective_gained(reward, kl, reference, beta).mean() / best if known else -np.inf
        for beta, best, known in zip(yardstick.betas, optimum.corrected.mean(0), optimum.reliable, strict=True)
    ]
    return float(yardstick.betas[int(np.argmax(shares))])


def optimum_rows(yardstick: Yardstick, seed: int | None) -> Iterator[Row]:
    """The optimum's own curve: a setting `beta=...` for each price, where the pool knows it.

    Rewards are the base policy's on all prompts and what the optimum gains on those that the yardstick has, so that they go
    with the other methods' even where these are fewer. Where a pool is too small for a price, only what the optimum gains at
    least is told.
    """
    optimum = yardstick.optimum
    for k, beta in enumerate(yardstick.betas):
        place, setting = ("optimum", seed, None, 1), f"beta={beta:g}"
        known = optimum.objective.reliable[k]
        objective = optimum.objective.mean if known else optimum.lower_bound
        ends = [float(part[k]) for part in objective]
        yield _measured(place, "objective" if known else "objective_at_least", ends, setting)
        yield Row(*place, "effective_sample_size", float(optimum.effective_sample_size[:, k].mean()), setting=setting)
        if optimum.kl.reliable[k]:
            ends = [float(part[k]) for part in optimum.kl.mean]
            yield replace(_measured(place, "kl", ends, setting), kl_kind="self_normalized")
            for name, estimate in optimum.values.items():
                ends = [float(part) for part in _on_all_prompts(yardstick, name, estimate.corrected[:, k])]
                yield _measured(place, name, ends, setting)


def _measured(place: tuple[str, int | None, int | None, int], metric: str, interval: Iterable[Any], setting: str) -> Row:
    """Return the row of a value and its two ends."""
    value, low, high = map(float, interval)
    return Row(*place, metric, value, low, high, setting=setting)


def best_of_n_rows(yardstick: Yardstick, seed: int | None) -> Iterator[Row]:
    """Objective and share of best-of-n: at every price its best n, with setting `beta=...`; without, at its best price."""
    found = yardstick.best_of_n
    for k, beta in enumerate(found.betas):
        for setting in [f"beta={beta:g}", *([""] if k == yardstick.best_price else [])]:
            n = int(found.n[k])
            place = ("best_of_n", seed, None, n)
            metric = BOUNDED_SHARE["upper" if found.upper_bound[k] else None]
            yield Row(*place, "beta", float(beta), setting=setting)
            yield _measured(place, "objective", [part[k] for part in found.gained], setting)
            yield _measured(place, metric, [part[k] for part in found.share], setting)


def best_of_n_as_json(yardstick: Yardstick) -> dict[str, Any] | None:
    """Return what best-of-n gains at the price where its share is greatest; None where the optimum is known at none."""
    found = yardstick.best_of_n
    k = yardstick.best_price
    if k is None:
        return None
    return {
        "n": int(found.n[k]),
        "beta": found.best_beta,
        "own_price": False,
        "objective": _parts(Interval(*(part[k] for part in found.gained))),
        "optimum": float(yardstick.optimum.objective.mean.value[k]),
        "share_of_optimum": {**_parts(Interval(*(part[k] for part in found.share))), "bound": None},
    }


def best_of_n_minus_optimum(yardstick: Yardstick) -> list[dict[str, float]]:
    """Best-of-n, at its upper bound of KL, minus the optimum of the same KL in the reward that evaluates, paired by prompt."""
    judge = yardstick.scores[yardstick.study.judge]
    curve = best_of_n_mean(yardstick.proxy, judge)
    bound = best_of_n_kl_bound(np.arange(1, curve.shape[1] + 1))
    points = []
    for kl in COMPARED:
        if kl > bound[-1]:
            break
        best = np.array([np.interp(kl, bound, line) for line in curve])
        # A number of each prompt that is taken off every candidate's reward is taken off its mean under any policy.
        over = optimum_at(yardstick.proxy, kl, {"difference": judge - best[:, None]}).values["difference"]
        if np.isfinite(over.value[0]):
            points.append({"kl": kl, "value": -float(over.value[0]), "low": -float(over.high[0]), "high": -float(over.low[0])})
    return points


def _on_all_prompts(yardstick: Yardstick, name: str, corrected: Array) -> Interval:
    """Mean reward of the optimum over all P prompts, of which the yardstick has M: the base policy's plus what is gained.

    A prompt of the M counts by P / M in the error of the gain.
    """
    base = yardstick.study.base.scores[name].mean(1)
    gain = corrected - yardstick.scores[name].mean(1)
    values = base + gain.mean()
    values[: len(gain)] += len(base) / len(gain) * (gain - gain.mean())
    return Interval(*(part[0] for part in student_mean(values[:, None])))


def _parts(interval: Interval) -> dict[str, float]:
    return {name: float(part) for name, part in interval._asdict().items()}
