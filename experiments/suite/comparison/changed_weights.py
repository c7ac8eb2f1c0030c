"""Policies that a training gives beside its own: along the line from the base policy's weights, and of averaged weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from bon import Candidates
from suite.baselines.interface import Training
from suite.comparison.setup import Comparison
from suite.metrics.cost import seconds_spent
from suite.metrics.vocabulary import EMA, LINE
from suite.models.line import averaged, on_line
from suite.models.policies import Policy
from suite.pools.maker import PoolMaker


def changed_pools(comparison: Comparison, maker: PoolMaker, training: Training) -> Iterator[tuple[str, str, Candidates]]:
    """Method (`ppo_line`, `ppo_ema`), setting (`step=0.5`) and pool of every policy that the baseline's keys ask for.

    They are drawn and judged as checkpoints are, with `baseline.checkpoint_candidates` candidates.
    """
    config, name = comparison.config, comparison.config.baseline.name
    folder, base = training.checkpoints[max(training.checkpoints)], comparison.policy
    wanted: list[tuple[str, str, AbstractContextManager[Policy]]] = [
        (f"{name}{LINE}", f"step={step:g}", on_line(base, folder, step))
        for step in sorted(getattr(config.baseline, "line_steps", ()))
    ]
    if getattr(config.baseline, "ema_decay", 0.0):
        wanted.append((f"{name}{EMA}", "", averaged(base, folder)))
    for method, setting, opened in wanted:
        with comparison.timed(f"{name} pools") as spent, opened as policy:
            pool = maker.pool(policy, config.baseline.checkpoint_candidates, config.seed)
            spent(seconds_spent(pool))
        yield method, setting, pool
