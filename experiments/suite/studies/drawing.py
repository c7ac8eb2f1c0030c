"""Everything of a study that takes models: pools and trainings, from the same cache as `experiments/run.py`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from suite.comparison.setup import Comparison, model_facts, pool_maker, prepare
from suite.config.registry import checked_config
from suite.config.run import RunConfig
from suite.config.studies import ReproduceConfig
from suite.models.flops import flops_per_token
from suite.runtime.errors import UserError
from suite.runtime.manifest import manifest
from suite.studies.composing import composed
from suite.studies.pool_files import read_facts
from suite.studies.progress import begin, end, is_stored, pool_recipe, training_file, training_recipe, wanted
from suite.studies.store import BASE, OPTIMUM, save_base, save_facts, save_optimum, save_trained, training_name
from suite.studies.workers import Run, trainings


class Sizes(Protocol):
    """Settings of every study with pools."""

    num_prompts: int
    num_candidates: int
    n: int


def shared_overrides(config: ReproduceConfig, settings: Sizes) -> tuple[str, ...]:
    """Return what every run of a study has in common: the overrides of all studies, the cache, and the study's sizes."""
    sizes = (f"{key}={getattr(settings, key)}" for key in ("num_prompts", "num_candidates", "n"))
    return (*config.overrides, f"cache={config.cache}", *sizes)


def run_config(*overrides: str) -> RunConfig:
    """Compose what `experiments/run.py` would run with these on its command line: the same keys of the cache come of it.

    Raises:
        UserError: a value is not allowed.
    """
    return checked_config(composed("config", "tracking=none", *overrides))


def draw(
    config: ReproduceConfig,
    study: str,
    folder: Path,
    settings: Any,
    runs: Sequence[Run],
    spent_before: Mapping[str, float] | None = None,
    optimum: tuple[int, int] = (0, 0),
) -> None:
    """Draw, train and store what the folder lacks; what the cache holds is read from there.

    The base policy's pool is drawn once, with seed 0, for all. A training's pools are drawn with the seed of the training.
    Each is stored as soon as it is there. The folder is finished, and has a manifest, once all are.

    Args:
        config: how many trainings at a time, and which of them in this sitting.
        study: its name.
        folder: where it is stored.
        settings: its own keys.
        runs: a run for each training; they differ in baseline and seed alone.
        spent_before: seconds of what the study has made itself, by name.
        optimum: prompts and candidates of the base policy's larger pool; (0, 0): none.

    Raises:
        UserError: data or models are missing, too few prompts, or none of the trainings has a name that was asked for.
    """
    first = runs[0][1]
    prepared = {run.baseline.name: run for _, run in reversed(runs)}
    comparison = prepare(first)
    for name, run in prepared.items():
        if name != first.baseline.name:
            prepare(run)  # for its checks, before hours are spent
    planned = {training_name(run.baseline.name, setting, run.seed): (setting, run) for setting, run in runs}
    recipes = {name: training_recipe(comparison, run) for name, (_, run) in planned.items()}
    asked = [name for name in planned if wanted(name, config.trainings)]
    if not asked:
        raise UserError(f"trainings={config.trainings} are none of {study}: there are {', '.join(planned)}")
    begin(folder, study, recipes)
    stored = [name for name in planned if is_stored(training_file(folder, name), recipes[name])]
    sitting = [name for name in asked if name not in stored][: config.at_most]
    told = f"{len(stored)} of {len(planned)} trainings are there, {len(sitting)} are made now"
    print(f"{study}: {first.num_prompts} prompts, {told}", flush=True)

    start = time.perf_counter()
    with trainings(comparison, [planned[name] for name in sitting], config.workers) as under_way:
        _draw_base(comparison, folder, optimum)
        for trained in under_way:
            save_trained(folder, trained, recipes[trained.name], manifest())
            stored.append(trained.name)
            took = f"{time.perf_counter() - start:.0f} s after the beginning"
            print(f"{study}: {len(stored)} of {len(planned)}, {trained.name}, {took}", flush=True)
    if len(stored) < len(planned):
        return
    made = {name: read_facts(training_file(folder, name)) or {} for name in planned}
    seconds: Counter[str] = Counter()
    seconds.update(spent_before or {})
    for each in made.values():
        seconds.update(each["stages"])
    for name in (BASE, OPTIMUM):
        if pool := read_facts(training_file(folder, name)):
            seconds[f"{name} pool"] += pool["seconds"] + pool["scoring_seconds"]
    facts = manifest(**model_facts(comparison), workers=config.workers, seconds=dict(seconds), flops_per_token={
        "policy": flops_per_token(comparison.policy.model),
        "proxy": flops_per_token(comparison.judges["proxy"].reward.model),
    })  # fmt: skip
    save_facts(folder, study, settings, first, {name: int(each["pools"]) for name, each in made.items()}, facts)
    end(folder)


def _draw_base(comparison: Comparison, folder: Path, optimum: tuple[int, int]) -> None:
    """The base policy's pools, as far as they are not stored."""
    config, maker = comparison.config, pool_maker(comparison)
    recipe = pool_recipe(comparison, config.num_prompts, config.num_candidates)
    if not is_stored(training_file(folder, BASE), recipe):
        save_base(folder, maker.pool(comparison.policy, config.num_candidates, 0), recipe)
    prompts, candidates = optimum
    recipe = pool_recipe(comparison, *optimum)
    if prompts and not is_stored(training_file(folder, OPTIMUM), recipe):
        few = replace(maker, prompts=maker.prompts[:prompts])
        save_optimum(folder, few.blocks(comparison.policy, candidates, 0), recipe)
