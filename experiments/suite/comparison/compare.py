"""The comparison itself: prompts, models, pools, training, rows. Everything expensive is cached under what determines it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bon import Candidates
from bon.rewards import RewardError
from suite.analysis.equal_cost import at_equal_flops
from suite.analysis.findings import (
    Findings,
    Overoptimisation,
    TrainingPath,
    best_of_n_overoptimisation,
    compared,
    training_overoptimisation,
)
from suite.analysis.objective import Gained, Yardstick, best_of_n_rows, gained, optimum_rows, price_of
from suite.baselines.health import warnings
from suite.baselines.interface import Training, train
from suite.comparison.changed_weights import changed_pools
from suite.comparison.setup import Comparison, pool_maker, training_task
from suite.metrics.cost import Costs, seconds_spent
from suite.metrics.evaluation import Study, checkpoint_rows, curve_rows
from suite.metrics.rows import Row
from suite.metrics.vocabulary import SPENT
from suite.models.policies import Policy, load_checkpoint
from suite.pools.maker import PoolMaker
from suite.runtime.errors import UserError
from suite.runtime.paths import located


@dataclass(frozen=True)
class Outcome:
    """Result of a comparison.

    Attributes:
        rows: every number.
        pools: method -> candidates; "base" and the tuned method.
        training: what the baseline's training gave, None without a baseline.
        findings: tuned method -> best-of-n against it.
        costs: tuned method -> its FLOPs and those of best-of-n.
        overoptimisation: method -> fits, and whether gold fell while proxy rose.
        yardstick: what the base policy's pool knows of the optimum; None where it knows nothing.
        objectives: tuned method -> the objective that it gains, and its share of the optimum.
        warnings: what went wrong in training, by kind, with the remedy.
    """

    rows: list[Row]
    pools: dict[str, Candidates]
    training: Training | None = None
    findings: dict[str, Findings] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    overoptimisation: dict[str, Overoptimisation] = field(default_factory=dict)
    yardstick: Yardstick | None = None
    objectives: dict[str, Gained] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)

    @property
    def policies(self) -> dict[str, Path]:
        """Tuned method -> folder of its last checkpoint."""
        training = self.training
        if training is None:
            return {}
        return {method: training.checkpoints[max(training.checkpoints)] for method in self.pools if method != "base"}


def compare(comparison: Comparison, on_update: Callable[[list[dict[str, Any]]], None] | None = None) -> Outcome:
    """Draw, train, draw again, and turn it all into rows; `on_update` is given the training's log whenever it has grown.

    Raises:
        UserError: a reward fails on a text, or training is another's.
    """
    try:
        return _compare(comparison, on_update)
    except RewardError as error:
        raise UserError(f"reward={comparison.config.reward.name}: {error}") from None


def _compare(comparison: Comparison, on_update: Callable[[list[dict[str, Any]]], None] | None) -> Outcome:
    config = comparison.config
    cache = located(config.cache)
    maker = pool_maker(comparison)
    with comparison.timed("base pool") as spent:
        base = maker.pool(comparison.policy, config.num_candidates, config.seed)
        spent(seconds_spent(base))
    study = Study(base, config.seed, config.resamples)
    with comparison.timed("evaluation"):
        flops = comparison.request_flops(base, comparison.policy)
        rows = list(curve_rows(study, base, "base", None, config.n, flops))
        # Without gold there is nothing that could fall while the proxy rises.
        over = {"best_of_n": best_of_n_overoptimisation(study)} if study.judge == "gold" else {}
        price = price_of(config.baseline.name, getattr(config.baseline, "kl_coef", None))
        yardstick = Yardstick.of(study, [] if price is None else [price])
        if yardstick is not None:
            rows += [*optimum_rows(yardstick, config.seed), *best_of_n_rows(yardstick, config.seed)]
    if config.baseline.name == "none":
        return Outcome(rows, {"base": base}, overoptimisation=over, yardstick=yardstick)

    method = config.baseline.name
    with comparison.timed("training") as spent:
        training = train(replace(training_task(comparison, cache), on_update=on_update))
        spent(training.seconds)
        if on_update is not None:
            on_update(training.log)  # nothing was reported of a training that was done before
    last = max(training.checkpoints)
    if training.measured:
        rows += training_rows(method, config.seed, last, training)
    tuned_pools = []
    for update, tuned, pool in checkpoint_pools(comparison, maker, training):
        is_last = update == last
        tuned_pools.append(pool)
        with comparison.timed("evaluation"):
            if is_last:
                tuned_flops = comparison.request_flops(pool, tuned)
                rows += curve_rows(study, pool, method, update, config.n, tuned_flops)
            else:
                rows += checkpoint_rows(study, pool, method, update)
    for changed, setting, few in changed_pools(comparison, maker, training):
        rows += [replace(row, setting=setting) for row in checkpoint_rows(study, few, changed, last)]
    with comparison.timed("evaluation"):
        path = TrainingPath.of(base, tuned_pools)
        costs = None
        if training.measured:
            costs = Costs(training.flops, float(tuned_flops[:, 0].mean()), flops.mean(0))
        equal = at_equal_flops(study, pool, flops, tuned_flops, config.n)
        found = {method: replace(compared(study, pool, path, costs, config.n), equal_flops=equal)}
        if study.judge == "gold":
            over[method] = training_overoptimisation(study, path)
        objectives = {}
        if yardstick is not None:
            objectives[method] = gained(yardstick, pool.scores["proxy"].mean(1)[None], path.kl[:, -1][None], price)
            rows += objectives[method].rows(method, config.seed, last)
    pools, spent_on = {"base": base, method: pool}, {} if costs is None else {method: costs}
    wrong = warnings(training.log, price)
    return Outcome(rows, pools, training, found, spent_on, over, yardstick, objectives, wrong)


def checkpoint_pools(comparison: Comparison, maker: PoolMaker, training: Training) -> Iterator[tuple[int, Policy, Candidates]]:
    """Update, policy and pool of every checkpoint that is evaluated, in turn; the last one's has the most candidates."""
    config, last = comparison.config, max(training.checkpoints)
    evaluated = sorted(training.checkpoints)[:: -config.baseline.evaluate_every][::-1]
    for update in evaluated:
        folder = training.checkpoints[update]
        tuned = load_checkpoint(comparison.policy, folder)
        count = max(config.baseline.num_candidates, config.n) if update == last else config.baseline.checkpoint_candidates
        with comparison.timed(f"{config.baseline.name} pools") as spent:
            pool = maker.pool(tuned, count, config.seed)
            spent(seconds_spent(pool))
        yield update, tuned, pool


def training_rows(method: str, seed: int, step: int, training: Training) -> list[Row]:
    """Return the rows of what training cost, once."""
    return [Row(method, seed, step, 1, f"training_{unit}", getattr(training, unit)) for unit in SPENT]
