"""Rows and findings of a method that was trained with several seeds: of every training, and over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bon.estimators import best_of_n_mean
from bon.estimators.diversity import best_of_n_distinct
from bon.intervals import Band, Interval, jackknife, seeds_mean
from bon.kl import best_of_n_kl_bound
from bon.tradeoffs.frontier import Frontier
from bon.tradeoffs.over_seeds import (
    seeds_difference,
    seeds_difference_at,
    seeds_equivalent_n,
    seeds_gold_decline,
    seeds_jackknife,
    seeds_overoptimisation,
)
from suite.analysis.equal_cost import at_equal_flops_over_seeds
from suite.analysis.findings import Findings, Overoptimisation, TrainingPath, common_kls
from suite.analysis.pay_back import PayBack, pay_back
from suite.metrics.cost import Costs, break_even
from suite.metrics.evaluation import (
    Columns,
    Study,
    checkpoint_columns,
    curve_columns,
    distinct_ns,
    policy_rows,
    request_seconds,
    split_intervals,
)
from suite.metrics.naming import named
from suite.metrics.rows import Row
from suite.metrics.vocabulary import SPENT
from suite.studies.store import Stored, Trained

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One training in numbers that are still to be averaged.

    Attributes:
        trained: the training.
        columns: update -> per-prompt numbers of the policy after it.
        distinct: order -> distinct n-grams for each of `ns` [K], and without each prompt [P, K].
        ns: the n of the distinct n-grams.
        flops: of a request to the final policy, by best-of-n [P, N].
    """

    trained: Trained
    columns: dict[int, Columns]
    distinct: dict[int, tuple[Array, Array]]
    ns: list[int]
    flops: Array


def measured(study: Study, stored: Stored, trained: Trained, n: int) -> Measured:
    """The numbers of one training."""
    final = trained.final
    flops = stored.request_flops(final)
    columns = {step: checkpoint_columns(study, pool) for step, pool in trained.pools.items() if step != trained.last}
    columns[trained.last] = curve_columns(study, final, False, flops)
    ns = distinct_ns(final, n)
    responses = final.token_ids, final.lengths, final.scores["proxy"]
    distinct = {order: best_of_n_distinct(*responses, order, ns) for order in (1, 2, 3)}
    return Measured(trained, columns, distinct, ns, flops)


def rows_of_training(study: Study, found: Measured) -> Iterator[Row]:
    """Every number of one training, intervals over prompts."""
    trained = found.trained
    for step, columns in found.columns.items():
        yield from _rows(study.intervals(columns), trained, trained.seed, step)
    intervals = {order: jackknife(*both) for order, both in found.distinct.items()}
    yield from _distinct(intervals, found, trained.seed)
    yield from _costs([found], trained.seed)


def rows_over_seeds(group: Sequence[Measured]) -> Iterator[Row]:
    """Every number of a method over its trainings, intervals over seeds and prompts; `seed` is None."""
    first = group[0]
    for step, columns in first.columns.items():
        joined = np.stack([np.concatenate(list(each.columns[step].values()), axis=1) for each in group])
        yield from _rows(split_intervals(seeds_mean(joined), columns), first.trained, None, step)
    intervals = {}
    for order in first.distinct:
        shares, without = zip(*(each.distinct[order] for each in group), strict=True)
        intervals[order] = seeds_jackknife(np.stack(shares), np.stack(without))
    yield from _distinct(intervals, first, None)
    yield from _costs(group, None)


def _rows(intervals: dict[tuple[str, str | None], Interval], trained: Trained, seed: int | None, step: int) -> Iterator[Row]:
    for (metric, kind), interval in intervals.items():
        yield from policy_rows(interval, trained.method, seed, step, metric, kind, trained.setting)


def _distinct(intervals: dict[int, Interval], found: Measured, seed: int | None) -> Iterator[Row]:
    trained = found.trained
    for order, interval in intervals.items():
        for n, value, low, high in zip(found.ns, *interval, strict=True):
            row = Row(named(trained.method, n), seed, trained.last, n, f"distinct_{order}", float(value))
            yield replace(row, ci_low=float(low), ci_high=float(high), setting=trained.setting)


def _costs(group: Sequence[Measured], seed: int | None) -> Iterator[Row]:
    """Rows without an interval: what training cost, and seconds, on average."""
    trained = group[0].trained
    row = Row(trained.method, seed, trained.last, 1, "", 0.0, setting=trained.setting)
    for unit in SPENT:
        if any(getattr(each.trained, unit) is None for each in group):
            continue  # folders of earlier versions do not say what the reward model read
        mean = np.mean([getattr(each.trained, unit) for each in group])
        yield replace(row, metric=f"training_{unit}", value=float(mean))
    seconds = np.mean([request_seconds(each.trained.final) for each in group], axis=0)
    for n, value in enumerate(seconds, 1):
        yield replace(row, method=named(trained.method, n), n=n, metric="seconds_per_request", value=float(value))


#: Trainers whose updates cost alike: stopped half way, a training has cost half.
_BY_UPDATE = ("ppo", "rloo", "grpo")


def compared_over_seeds(
    study: Study, stored: Stored, group: Sequence[Measured], n: int, search_flops: float | None = None
) -> Findings:
    """Best-of-n of the base policy against a method's trainings, as `findings.compared`.

    Args:
        study: with the base policy's pool.
        stored: the study's folder, for what a request costs.
        group: the trainings, a seed each.
        n: the study's own.
        search_flops: of the search for the method's settings, where one is on record.
    """
    flops = stored.request_flops(stored.base)
    base = study.base
    curve = best_of_n_mean(base.scores["proxy"], base.scores["gold"])
    targets = np.stack([each.trained.final.scores["gold"].mean(1) for each in group])
    worth = seeds_equivalent_n(curve, targets)
    training = float(np.mean([each.trained.flops for each in group]))
    tuned = float(np.mean([each.flops[:, 0].mean() for each in group]))
    paths = path_over_seeds(study, group)
    costs = Costs(training, tuned, flops.mean(0))
    return Findings(
        n=n,
        num_candidates=base.num_candidates,
        paired=seeds_difference(curve[:, n - 1], targets),
        detectable=None,
        prompts_needed=None,
        equivalent_n=worth,
        break_even=break_even(costs, worth),
        pay_back=_pay_back(stored, group, curve, costs, search_flops),
        equal_kl=equal_kl(study, paths.kl, paths.gold, in_turn=True),
        equal_flops=at_equal_flops_over_seeds(
            study, [each.trained.final for each in group], flops, [each.flops for each in group], n
        ),
    )


def _pay_back(stored: Stored, group: Sequence[Measured], curve: Array, costs: Costs, search_flops: float | None) -> PayBack:
    trainings = [each.trained for each in group]
    updates = sorted(set.intersection(*(set(training.pools) for training in trainings)))
    targets = {u: np.stack([training.pools[u].scores["gold"].mean(1) for training in trainings]) for u in updates}
    tuned = {
        u: float(np.mean([stored.request_flops(training.pools[u])[:, 0].mean() for training in trainings])) for u in updates
    }
    by_budget = tuned if trainings[0].method in _BY_UPDATE else None
    return pay_back(curve, targets, [training.seed for training in trainings], costs, by_budget, search_flops)


def path_over_seeds(study: Study, group: Sequence[Measured]) -> TrainingPath:
    """The way of every training from the base policy on: [S, P, K] each."""
    paths = [TrainingPath.of(study.base, [pool for _, pool in sorted(each.trained.pools.items())]) for each in group]
    return TrainingPath(*(np.stack([getattr(path, name) for path in paths]) for name in ("kl", "proxy", "gold")))


def final_policies(study: Study, groups: Sequence[Sequence[Measured]]) -> TrainingPath:
    """The base policy and the final policies of several settings, a seed of each together: [S, P, 1 + settings] each.

    S is the number of trainings of the setting that has the fewest; the others' further ones are left out.
    """
    paths = []
    for together in zip(*groups, strict=False):
        paths.append(TrainingPath.of(study.base, [each.trained.final for each in together]))
    return TrainingPath(*(np.stack([getattr(path, name) for path in paths]) for name in ("kl", "proxy", "gold")))


def equal_kl(study: Study, kl: Array, gold: Array, in_turn: bool = False) -> dict[float, Band]:
    """Gold reward of best-of-n (at its upper bound) minus that of trainings whose KL and gold are [S, P, K], the base first.

    The trainings are read in the square root of KL between measured policies, and nowhere below the first of them; `in_turn`:
    the policies are those of one training, which is read where it first reaches a KL.
    """
    base = study.base
    curve = best_of_n_mean(base.scores["proxy"], base.scores["gold"])
    bound = best_of_n_kl_bound(np.arange(1, base.num_candidates + 1))
    at = common_kls(float(bound[-1]), kl.mean(1))
    if not at:
        return {}
    differences = seeds_difference_at(Frontier(bound, curve), Frontier(kl, gold, in_turn), at, scale="sqrt")
    return {point: Band(*parts) for point, *parts in zip(at, *differences, strict=True)}


def overoptimisation_over_seeds(path: TrainingPath) -> Overoptimisation:
    """Of trainings, against their measured KL; [S, P, K] each."""
    fit = None
    if path.gold.shape[2] >= 4:
        fit = seeds_overoptimisation(path.kl[..., 1:], path.gold[..., 1:] - path.gold[..., :1], "rl")
    return Overoptimisation(fit, seeds_gold_decline(path.kl, path.proxy, path.gold))
