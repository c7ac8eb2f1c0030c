"""Everything of a study that takes models: pools and trainings, from the same cache as `experiments/run.py`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from suite.baselines import train
from suite.command import located
from suite.comparison import checkpoint_pools, model_facts, pool_maker, prepare, training_task
from suite.cost import flops_per_token
from suite.manifest import manifest
from suite.pools import seconds_spent
from suite.schema import RunConfig, checked_config
from suite.studies.composing import composed
from suite.studies.schema import ReproduceConfig
from suite.studies.store import Trained, save_base, save_facts, save_trained

#: A setting, as in the rows, and the run that belongs to it.
Run = tuple[str, RunConfig]


class Sizes(Protocol):
    """What the settings of every study with pools say."""

    num_prompts: int
    num_candidates: int
    n: int


def shared_overrides(config: ReproduceConfig, settings: Sizes) -> tuple[str, ...]:
    """What every run of a study has in common: the overrides of all studies, the cache, and the study's sizes."""
    sizes = (f"{key}={getattr(settings, key)}" for key in ("num_prompts", "num_candidates", "n"))
    return (*config.overrides, f"cache={config.cache}", *sizes)


def run_config(*overrides: str) -> RunConfig:
    """What `experiments/run.py` would run with these on its command line: the same keys of the cache come of it.

    Raises:
        UserError: a value is not allowed.
    """
    return checked_config(composed("config", "tracking=none", *overrides))


def draw(
    study: str, folder: Path, settings: Any, runs: Sequence[Run], spent_before: Mapping[str, float] | None = None
) -> None:
    """Draw, train and store; what the cache holds is read from there.

    The base policy's pool is drawn once, with seed 0, for all. A training's pools are drawn with the seed of the training.

    Args:
        study: its name.
        folder: where it is stored.
        settings: its own keys.
        runs: a run for each training; they differ in baseline and seed alone.
        spent_before: seconds of what the study has made itself, by name.

    Raises:
        UserError: data or models are missing, or too few prompts.
    """
    first = runs[0][1]
    prepared = {config.baseline.name: config for _, config in reversed(runs)}
    comparison = prepare(first)
    comparison.seconds.update(spent_before or {})
    for name, config in prepared.items():
        if name != first.baseline.name:
            prepare(config)  # for its checks, before hours are spent
    (folder / "manifest.json").unlink(missing_ok=True)  # what follows is incomplete until there is a new one
    print(f"{study}: {len(runs)} trainings, {first.num_prompts} prompts", flush=True)
    maker = pool_maker(comparison)
    with comparison.timed("base pool") as spent:
        base = maker.pool(comparison.policy, first.num_candidates, 0)
        spent(seconds_spent(base))
    save_base(folder, base)
    trainings = []
    for done, (setting, config) in enumerate(runs, 1):
        start = time.perf_counter()
        trained = _trained(replace(comparison, config=config), setting)
        save_trained(folder, trained)
        trainings.append(trained)
        print(f"{study}: {done} of {len(runs)}, {trained.name}, {time.perf_counter() - start:.0f} s", flush=True)
    facts = manifest(**model_facts(comparison), seconds=comparison.seconds, flops_per_token={
        "policy": flops_per_token(comparison.policy.model),
        "proxy": flops_per_token(comparison.judges["proxy"].reward.model),
    })  # fmt: skip
    save_facts(folder, study, settings, first, trainings, facts)


def _trained(comparison: Any, setting: str) -> Trained:
    config: RunConfig = comparison.config
    with comparison.timed(f"{config.baseline.name} training") as spent:
        training = train(training_task(comparison, located(config.cache)))
        spent(training.seconds)
    pools = {step: pool for step, _, pool in checkpoint_pools(comparison, pool_maker(comparison), training)}
    cost = training.tokens, training.flops, training.seconds, training.reward_tokens
    return Trained(config.baseline.name, setting, config.seed, pools, *cost)
