"""A documented search: successive halving over settings, a search for each trainer and each price of a nat.

A trial is ranked by its share of the optimum: the objective that the trainer maximizes (proxy reward less the price times the
KL) on its own roll-outs of the last quarter of the training, less the untrained policy's, over what the KL-regularized optimum
gains on training prompts. No evaluation prompt and no gold reward has a say. Trials of the first round are trained once, at a
short budget; the survivors with several seeds at the full one, and their error is over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bon.tradeoffs import kl_regularized_optimum
from suite.baselines.interface import Training, train
from suite.comparison.setup import Comparison, pool_maker, prepare, training_task
from suite.config.tune import TuneConfig
from suite.runtime.paths import located

AS_CONFIGURED = "as configured"


@dataclass(frozen=True)
class Trial:
    """Result of one training, over the last quarter of its updates.

    Attributes:
        trainer: the baseline's name.
        price: reward paid for a nat, by which it is judged.
        settings: what differs from the configuration.
        updates, responses, seed: of the training.
        gained: objective gained over the untrained policy.
        share: of what the optimum gains at this price.
        share_is_bound: the pool cannot say what the optimum gains; the share is at most this.
        proxy, kl, distinct_2: of its roll-outs.
        training_tokens, training_flops, training_seconds: what it took.
    """

    trainer: str
    price: float
    settings: str
    updates: int
    responses: int
    seed: int
    gained: float
    share: float
    share_is_bound: bool
    proxy: float
    kl: float
    distinct_2: float
    training_tokens: int
    training_flops: int
    training_seconds: float


class Yardstick(NamedTuple):
    """Yardstick of a price: the untrained policy's mean proxy reward, and what the optimum gains over it."""

    untrained: float
    optimum: float
    is_bound: bool


def search(config: TuneConfig) -> Iterator[Trial]:
    """Train and yield every trial, those of the cache at once: for each price the first round, then the survivors.

    Raises:
        UserError: data or models are missing.
    """
    comparison = prepare(config)
    measure = yardstick(comparison)
    for price in config.prices:
        by = measure(price)
        survivors = list(config.trials)
        if config.short_updates and len(survivors) > config.survivors:
            first = []
            for trial in survivors:
                first.append(_trial(comparison, config, trial, price, config.short_updates, config.seeds[0], by))
                yield first[-1]
            # Ties keep the order in which the trials stand.
            order = np.argsort([-found.gained for found in first], kind="stable")[: config.survivors]
            survivors = [survivors[k] for k in sorted(order)]
        for trial in survivors:
            for seed in config.seeds:
                yield _trial(comparison, config, trial, price, config.baseline.updates, seed, by)


def yardstick(comparison: Comparison) -> Callable[[float], Yardstick]:
    """Return price -> yardstick, from a pool of the base policy on training prompts, drawn once."""
    config = comparison.config
    assert isinstance(config, TuneConfig)
    prompts = comparison.training_prompts[: config.optimum_prompts]
    maker = pool_maker(replace(comparison, evaluation_prompts=prompts))
    scores = maker.pool(comparison.policy, config.num_candidates, config.seed).scores["proxy"]

    def measured(price: float) -> Yardstick:
        found = kl_regularized_optimum(scores, [price])
        known = bool(found.objective.reliable[0])
        gained = found.objective.mean.value[0] if known else found.lower_bound.value[0]
        return Yardstick(float(scores.mean()), float(gained), not known)

    return measured


def _trial(
    comparison: Comparison, config: TuneConfig, trial: Sequence[str], price: float, updates: int, seed: int, by: Yardstick
) -> Trial:
    changed = config.changed(trial, price, updates, seed)
    training = train(training_task(replace(comparison, config=changed), located(config.cache)))
    return trial_of(trial, training, changed, price, by)


def trial_of(settings: Sequence[str], training: Training, config: TuneConfig, price: float, by: Yardstick) -> Trial:
    """Summarize a training's log."""
    last = training.log[-max(len(training.log) // 4, 1) :]
    proxy = float(np.mean([row["objective/scores"] for row in last]))
    kl = float(np.mean([row.get("objective/kl_rao_blackwell", row["objective/kl"]) for row in last]))
    gained = proxy - price * kl - by.untrained
    return Trial(
        trainer=config.baseline.name,
        price=price,
        settings=", ".join(settings) or AS_CONFIGURED,
        updates=config.baseline.updates,
        responses=config.baseline.updates * config.baseline.batch_size,
        seed=config.seed,
        gained=gained,
        share=gained / by.optimum,
        share_is_bound=by.is_bound,
        proxy=proxy,
        kl=kl,
        distinct_2=float(np.mean([row["response/distinct_2"] for row in last])),
        training_tokens=training.tokens,
        training_flops=training.flops,
        training_seconds=training.seconds,
    )
