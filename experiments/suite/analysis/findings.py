"""Findings of a comparison beyond its curves: paired differences, equal KL and cost, equivalent n, over-optimisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bon import Candidates
from bon.estimators import best_of_n_mean
from bon.intervals import Band, Difference, Interval, paired_difference
from bon.intervals.power import minimum_detectable_difference, required_prompts
from bon.kl import best_of_n_kl_bound
from bon.tradeoffs.frontier import Frontier, difference_at, equivalent_n
from bon.tradeoffs.overoptimisation import Decline, Form, OveroptimisationFit, fit_overoptimisation, gold_decline
from suite.analysis import pay_back
from suite.analysis.equal_cost import EqualCost, told
from suite.analysis.pay_back import PayBack
from suite.metrics.cost import BreakEven, Costs, break_even
from suite.metrics.evaluation import Study
from suite.metrics.naming import title
from suite.metrics.vocabulary import RAO_BLACKWELL

Array = NDArray[np.float64]

#: A difference in gold reward (logits) worth finding: how many prompts it takes is reported.
WORTH_FINDING = 0.1


@dataclass(frozen=True)
class TrainingPath:
    """A tuned policy over its training, on the evaluation prompts; the base policy is its first point.

    Attributes:
        kl: [P, K] measured KL to the base policy.
        proxy, gold: [P, K] rewards; the proxy stands for gold where there is none.
    """

    kl: Array
    proxy: Array
    gold: Array

    @classmethod
    def of(cls, base: Candidates, checkpoints: Sequence[Candidates]) -> TrainingPath:
        """From the pools of the base policy and of every checkpoint in turn."""
        pools = [base, *checkpoints]
        none = np.zeros(base.num_prompts)
        kl = [none] + [pool.scores[RAO_BLACKWELL].mean(1) for pool in checkpoints]
        judges = ("proxy", "gold" if "gold" in base.scores else "proxy")
        rewards = [[pool.scores[name].mean(1) for pool in pools] for name in judges]
        return cls(np.stack(kl, axis=1), *(np.stack(columns, axis=1) for columns in rewards))


class KLs(NamedTuple):
    """KL to the base policy in nats: of best-of-n its upper bound, of the tuned policy as measured."""

    best_of_n: float
    tuned: float


@dataclass(frozen=True)
class Findings:
    """Best-of-n of the base policy against one tuned policy, in gold reward; `n` is the run's own, of `num_candidates`.

    Attributes:
        judge: the reward that is compared: `gold`, or `proxy` where there is no gold, which then stands for it below.
        paired: best-of-n minus the tuned policy, prompt by prompt.
        detectable: the difference that this many prompts find with a power of 80%; None over several training seeds, which
            scatter too.
        prompts_needed: the prompts that find a difference of `WORTH_FINDING`; None over several training seeds.
        equivalent_n: the n whose best-of-n has the tuned policy's gold reward.
        break_even: the requests after which training has paid for itself, in FLOPs, against best-of-n of equal gold reward;
            None where nobody knows what training cost.
        equal_kl: KL in nats -> best-of-n (at its upper bound) minus the tuned policy, where its training first reaches that
            KL, with an interval for each KL alone and a band for all of them.
        equal_flops: best-of-n minus the tuned policy, and minus its best-of-k, at equal FLOPs a request.
        one_seed: the KLs of both, where there is one training; None over several training seeds.
        pay_back: break-even for one training, with the search for settings, and by budget; of several training seeds.
    """

    n: int
    num_candidates: int
    paired: Difference
    detectable: float | None
    prompts_needed: int | None
    equivalent_n: Interval
    break_even: BreakEven | None
    equal_kl: dict[float, Band]
    judge: str = "gold"
    equal_flops: list[EqualCost] = field(default_factory=list)
    one_seed: KLs | None = None
    pay_back: PayBack | None = None


@dataclass(frozen=True)
class Overoptimisation:
    """Gao et al.'s fit of gold reward against sqrt(KL), where there are points enough, and whether gold fell."""

    fit: OveroptimisationFit | None
    decline: Decline


def compared(study: Study, tuned: Candidates, path: TrainingPath, costs: Costs | None, n: int) -> Findings:
    """Best-of-n of the base policy's pool against a tuned policy's final pool, its path and what it cost."""
    base = study.base
    curve = best_of_n_mean(base.scores["proxy"], base.scores[study.judge])
    target = tuned.scores[study.judge].mean(1)
    difference = curve[:, n - 1] - target
    bound = best_of_n_kl_bound(np.arange(1, base.num_candidates + 1))
    at = common_kls(float(bound[-1]), path.kl.mean(0)[None])
    trained = Frontier(path.kl, path.gold, in_turn=True)
    equal = difference_at(Frontier(bound, curve), trained, study.rng(), at, resamples=study.resamples, scale="sqrt")
    worth = equivalent_n(curve, target, study.rng(), resamples=study.resamples)
    return Findings(
        judge=study.judge,
        n=n,
        num_candidates=base.num_candidates,
        paired=paired_difference(curve[:, n - 1], target, study.rng(), resamples=study.resamples),
        detectable=minimum_detectable_difference(difference),
        prompts_needed=required_prompts(difference, WORTH_FINDING),
        equivalent_n=worth,
        break_even=None if costs is None else break_even(costs, worth),
        equal_kl={kl: Band(*parts) for kl, *parts in zip(at, *equal, strict=True)},
        one_seed=KLs(float(bound[n - 1]), float(path.kl[:, -1].mean())),
    )


def common_kls(best_of_n: float, tuned: Array) -> list[float]:
    """The KLs, in nats, at which best-of-n is compared with trained policies: where all of them were measured.

    The straight line from the base policy to a training's first policy is no measurement, and nobody knows how the way there
    bends: KLs below the first are left out.

    Args:
        best_of_n: the largest KL of best-of-n, which is known from 0 on.
        tuned: mean KL of S trainings' policies [S, K], the base policy first.
    """
    lowest, highest = tuned[:, 1:].min(1).max(), min(best_of_n, tuned.max(1).min())
    return [kl for kl in np.arange(0.5, 5.0, 0.5).tolist() if lowest <= kl <= highest]


def best_of_n_overoptimisation(study: Study) -> Overoptimisation:
    """Of the base policy's best-of-n, at n = 1, 2, 4, ..."""
    base = study.base
    powers = 2 ** np.arange(int(math.log2(base.num_candidates)) + 1)
    columns = [best_of_n_mean(base.scores["proxy"], base.scores[name])[:, powers - 1] for name in ("proxy", study.judge)]
    return _overoptimisation(study, "best_of_n", best_of_n_kl_bound(powers), *columns)


def training_overoptimisation(study: Study, path: TrainingPath) -> Overoptimisation:
    """Of a tuned policy over its training, against its measured KL."""
    return _overoptimisation(study, "rl", path.kl, path.proxy, path.gold)


def _overoptimisation(study: Study, form: Form, kl: Array, proxy: Array, gold: Array) -> Overoptimisation:
    fit = None
    if gold.shape[1] >= 4:  # the base policy and three more: one more point than the form has parameters
        gain = gold[:, 1:] - gold[:, :1]
        fit = fit_overoptimisation(kl[..., 1:], gain, form, study.rng(), resamples=study.resamples)
    return Overoptimisation(fit, gold_decline(kl, proxy, gold, study.rng(), resamples=study.resamples))


def sentences(findings: Mapping[str, Findings], over: Mapping[str, Overoptimisation], num_prompts: int) -> list[str]:
    """Each finding in a sentence, warnings last."""
    lines: list[str] = []
    for method, found in findings.items():
        d, name, best = found.paired, _named(method), f"best-of-{found.n}"
        clear = (
            f"{best if d.value > 0 else name} is better" if d.low > 0 or d.high < 0 else "the difference is not significant"
        )
        lines.append(
            f"{_reward(found).capitalize()} of {best} minus {name}, paired over {num_prompts} prompts: {d.value:+.3f} "
            f"(95% interval {d.low:+.3f} to {d.high:+.3f}, {_p(d.p_value)}): {clear}."
        )
        if found.one_seed is not None:
            lines.append(_one_seed(best, name, found, found.one_seed))
        if found.detectable is not None and found.prompts_needed is not None:
            lines.append(
                f"This run can see differences of {found.detectable:.3f} (power 80%); "
                f"a difference of {WORTH_FINDING:g} takes {found.prompts_needed:,} prompts."
            )
        lines.append(_worth(name, found))
        if found.break_even is not None:
            lines.append(_pays_off(name, found.break_even, _reward(found)))
        if found.pay_back is not None:
            lines += pay_back.told(found.pay_back, name, found.num_candidates)
        if found.equal_kl:
            lines.append(_at_equal_kl(name, found))
        if found.equal_flops:
            lines.append(told(found.equal_flops, name, _reward(found)))
    for method, result in over.items():
        decline = result.decline
        if decline.declines:
            fall = f"{-decline.gold.value:.2f} [{-decline.gold.high:.2f}, {-decline.gold.low:.2f}]"
            lines.append(
                f"WARNING: {_named(method)} over-optimises the proxy: from {decline.since_kl:.2g} nats, half of the last KL, "
                f"to the end gold falls by {fall} while proxy rises by {decline.proxy.value:.2f}. Stop earlier, or use a "
                "better proxy."
            )
    return lines


def _one_seed(best: str, name: str, found: Findings, at: KLs) -> str:
    """Say what a comparison with one training cannot say, and at which KL it stands."""
    line = (
        f"There is one training seed: the interval is over prompts only and does not know how trainings spread. {best} stands "
        f"at no more than {at.best_of_n:.2f} nats of KL, {name} at {at.tuned:.2f}"
    )
    if not found.equal_kl:
        return f"{line}; at no KL were both measured."
    kl = min(found.equal_kl, key=lambda kl: abs(kl - at.tuned))
    equal = found.equal_kl[kl]
    difference = f"{equal.value:+.2f} [{equal.low:+.2f}, {equal.high:+.2f}]"
    return f"{line}; at an equal {kl:g} nats best-of-n minus {name} is {difference}."


def _named(method: str) -> str:
    """The name of a method; behind a space stands the setting it was trained with."""
    method, _, setting = method.partition(" ")
    return f"{title(method)} ({setting})" if setting else title(method)


def _p(value: float) -> str:
    """A p-value; few seeds, and 2,000 bootstrap samples, cannot tell how far below 0.001 it is."""
    return "p < 0.001" if value < 0.0015 else f"p = {value:.2g}"


def _at_equal_kl(name: str, found: Findings) -> str:
    each = "; ".join(f"{i.value:+.2f} [{i.low:+.2f}, {i.high:+.2f}] at {kl:g}" for kl, i in found.equal_kl.items())
    bands = [(i.band_high - i.band_low) / (i.high - i.low) for i in found.equal_kl.values() if i.high > i.low]
    together = f"; a band for all of them is {max(bands):.1f} times as wide" if len(bands) > 1 else ""
    return (
        f"At equal KL (nats; best-of-n at its upper bound, {name} where it first reaches that KL, in the square root of KL "
        f"between measured checkpoints) best-of-n minus {name} in {_reward(found)}: {each} (pointwise{together})."
    )


def _worth(name: str, found: Findings) -> str:
    worth, most = found.equivalent_n, f"more than {found.num_candidates}"
    low, high = (f"{float(end):.3g}" if math.isfinite(end) else most for end in (worth.low, worth.high))
    if math.isinf(worth.low):
        return f"{name} is worth more than best-of-{found.num_candidates}, the most that was drawn."
    if math.isinf(worth.value):
        return f"{name} is worth more than best-of-{found.num_candidates} (95% interval {low} to {high})."
    return f"{name} is worth best-of-{float(worth.value):.3g} (95% interval {low} to {high})."


def _reward(found: Findings) -> str:
    return "gold reward" if found.judge == "gold" else "reward"


def _pays_off(name: str, found: BreakEven, reward: str) -> str:
    requests = found.requests
    if math.isinf(requests.value):
        return f"Training {name} does not pay off: best-of-n of equal {reward} costs no more."
    low, high = (f"{float(end):,.0f}" if math.isfinite(end) else "never" for end in (requests.low, requests.high))
    below = "at most " if found.low_censored else ""
    interval = "" if low == high else f" (95% interval {below}{low} to {high})"
    after = "at most " if found.censored else ""
    return (
        f"Training {name} pays off after {after}{float(requests.value):,.0f} requests{interval}, in model FLOPs, "
        f"against best-of-n of equal {reward}."
    )


def as_json(findings: Mapping[str, Findings], over: Mapping[str, Overoptimisation]) -> dict[str, Any]:
    """Everything found, for `findings.json`; an infinite number is written as a string."""
    result: dict[str, Any] = {"compared": {}, "overoptimisation": {}}
    for method, found in findings.items():
        result["compared"][method] = {
            "n": found.n,
            "best_of_n_minus_method": _parts(found.paired),
            "detectable_difference": found.detectable,
            f"prompts_needed_for_{WORTH_FINDING:g}": found.prompts_needed,
            "equivalent_n": _parts(found.equivalent_n),
            "reward": found.judge,
            "break_even_requests": None
            if found.break_even is None
            else {
                **_parts(found.break_even.requests),
                "at_most": found.break_even.censored,
                "low_at_most": found.break_even.low_censored,
            },
            "pay_back": None if found.pay_back is None else pay_back.as_json(found.pay_back),
            "best_of_n_minus_method_at_equal_kl": [{"kl": kl, **_parts(i)} for kl, i in found.equal_kl.items()],
            "best_of_n_minus_method_at_equal_flops": [
                {"k": at.k, "n": at.n, "flops": at.flops, **_parts(at.difference)} for at in found.equal_flops
            ],
        }
    for method, item in over.items():
        fit = item.fit
        result["overoptimisation"][method] = {
            "fit": None if fit is None else {
                "form": "d (alpha - beta d)" if fit.form == "best_of_n" else "d (alpha - beta log d)",
                **{name: _parts(getattr(fit, name)) for name in ("alpha", "beta", "peak")},
                "residual": fit.residual,
                "largest_d": fit.largest,
                "peak_is_measured": fit.peak_is_measured,
            },
            "declines": item.decline.declines,
            "contrast": {
                "since_kl": item.decline.since_kl,
                "proxy_change": _parts(item.decline.proxy),
                "gold_change": _parts(item.decline.gold),
                "gold_change_of_each_seed": item.decline.each_gold.tolist(),
            },
        }  # fmt: skip
    return result


def _parts(interval: Any) -> dict[str, Any]:
    parts = {name: float(value) for name, value in interval._asdict().items()}
    return {name: value if math.isfinite(value) else str(value) for name, value in parts.items()}
