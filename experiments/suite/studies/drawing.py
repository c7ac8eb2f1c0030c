"""Everything of a study that takes models: pools and trainings, from the same cache as `experiments/run.py`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from suite.comparison.setup import model_facts, pool_maker, prepare
from suite.config.registry import checked_config
from suite.config.run import RunConfig
from suite.config.studies import ReproduceConfig
from suite.metrics.cost import seconds_spent
from suite.models.flops import flops_per_token
from suite.runtime.manifest import manifest
from suite.studies.composing import composed
from suite.studies.store import save_base, save_facts, save_trained
from suite.studies.workers import Run, trainings


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
    study: str,
    folder: Path,
    settings: Any,
    runs: Sequence[Run],
    spent_before: Mapping[str, float] | None = None,
    workers: int = 1,
) -> None:
    """Draw, train and store; what the cache holds is read from there.

    The base policy's pool is drawn once, with seed 0, for all. A training's pools are drawn with the seed of the training.

    Args:
        study: its name.
        folder: where it is stored.
        settings: its own keys.
        runs: a run for each training; they differ in baseline and seed alone.
        spent_before: seconds of what the study has made itself, by name.
        workers: trainings at a time.

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
    done = []
    with trainings(comparison, runs, workers) as under_way:
        with comparison.timed("base pool") as spent:
            base = maker.pool(comparison.policy, first.num_candidates, 0)
            spent(seconds_spent(base))
        save_base(folder, base)
        start = time.perf_counter()
        for trained in under_way:
            save_trained(folder, trained)
            done.append(trained)
            print(f"{study}: {len(done)} of {len(runs)}, {trained.name}, {time.perf_counter() - start:.0f} s", flush=True)
            start = time.perf_counter()
    facts = manifest(**model_facts(comparison), workers=workers, seconds=comparison.seconds, flops_per_token={
        "policy": flops_per_token(comparison.policy.model),
        "proxy": flops_per_token(comparison.judges["proxy"].reward.model),
    })  # fmt: skip
    save_facts(folder, study, settings, first, done, facts)
