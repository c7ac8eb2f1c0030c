"""The first stage alone on warm Ray actors: how many candidates a second, and how much of a core each takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from suite.config.engine import EngineConfig, StageConfig
from suite.config.scaling import ScalingConfig
from suite.models.flops import flops_per_token
from suite.pools.ray_cluster import cluster
from suite.pools.ray_engine import Drawing, RayEngine, row_of, unit_of
from suite.pools.recipe import Recipe, Unit
from suite.scaling.measured import Run


class Timed(Drawing):
    """Draws and throws away; says how long its core worked, and on what."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One unit in; its core seconds and tokens out."""
        unit = unit_of(batch["unit"][0])
        start = time.thread_time()
        pool = self.recipe.drawn(unit)
        return {"seconds": np.array([time.thread_time() - start]), "tokens": np.array([pool.lengths.mean()])}


def sampling_runs(config: ScalingConfig, recipe: Recipe, prompts: Sequence[Sequence[int]]) -> list[Run]:
    """A run for every n and number of actors."""
    runs = []
    engine = EngineConfig(name="ray", generation=StageConfig(cpus=0.75), scoring=StageConfig(cpus=0.25))
    with cluster(engine):
        sent = ray.put(recipe)
        for n in config.ns:
            units = units_of(config, n, prompts)
            for processes in config.processes:
                actors = replace(engine, generation=StageConfig(actors=processes, cpus=0.75))
                runs.append(_run(RayEngine(actors), sent, units, flops_per_token(recipe.policy.model)))
    return runs


def units_of(config: ScalingConfig, n: int, prompts: Sequence[Sequence[int]]) -> list[Unit]:
    """Shards of one size, each of its own prompts."""
    size = config.candidates // n
    starts = [unit * size % (len(prompts) - size + 1) for unit in range(config.units)]
    return [Unit("measured", [list(p) for p in prompts[s : s + size]], range(s, s + size), range(n)) for s in starts]


def _run(engine: RayEngine, sent: Any, units: Sequence[Unit], flops: int) -> Run:
    """Between the first and the last round of shards: starting the actors is left out."""
    rows = ray.data.from_items([{"unit": row_of(unit)} for unit in units], override_num_blocks=len(units))
    drawn = rows.map_batches(Timed, **engine.actors("generation", recipe=sent))
    found = [
        (time.perf_counter(), float(row["seconds"][0]), float(row["tokens"][0])) for row in drawn.iter_batches(batch_size=1)
    ]
    moments, seconds, tokens = np.array(found).T
    warm, count = engine.config.generation.actors, len(units[0].prompts) * len(units[0].candidates)
    prompt = np.mean([len(prompt) for unit in units for prompt in unit.prompts])
    n = len(units[0].candidates)
    return Run(
        n=n,
        processes=warm,
        candidates_per_second=float((len(units) - warm) * count / (moments[-1] - moments[warm - 1])),
        # The median: a first shard also warms the caches up.
        core_seconds=float(np.median(seconds)) / count,
        flops_per_candidate=float(flops * (prompt / n + tokens.mean() - 1)),
    )
