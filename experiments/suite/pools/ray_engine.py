"""Candidate pools on Ray Data: a stage of actors that draw and a stage of actors that score and keep the shards.

What goes through the pipeline is a shard at a time, as the bytes of its Parquet file. An actor that dies is started again
and its shard drawn again: the same bits, under the same name. The draws are those of a single process with as many threads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from tqdm import tqdm

from bon import Candidates
from suite.config.engine import EngineConfig, StageConfig
from suite.pools.ray_cluster import cluster
from suite.pools.recipe import Recipe, Unit
from suite.pools.shards import Shards
from suite.runtime.errors import UserError

Batch = dict[str, Any]
#: Shards in one pipeline: what the driver knows of a pipeline grows with it, what an actor loads is loaded again for the next.
WAVE = 4096


class Drawing:
    """The first stage: units to pools without scores."""

    def __init__(self, recipe: Any, stage: StageConfig) -> None:
        self.recipe = settled(ray.get(recipe), stage)

    def __call__(self, batch: Batch) -> Batch:
        """One unit in, the same unit and its pool out."""
        units = [unit_of(row) for row in batch["unit"]]
        return {"unit": batch["unit"], "pool": _cells([self.recipe.drawn(unit).to_bytes() for unit in units])}


class Scoring:
    """The second stage: pools to shards. Only their sizes in bytes go on."""

    def __init__(self, recipe: Any, stage: StageConfig, shards: Shards) -> None:
        self.recipe, self.shards = settled(ray.get(recipe), stage), shards

    def __call__(self, batch: Batch) -> Batch:
        """Scores and keeps every pool."""
        width = self.recipe.sampling.max_new_tokens
        pools = [_widened(Candidates.from_bytes(data), width) for data in batch["pool"]]
        return {"bytes": np.array([self.kept(unit_of(row), pool) for row, pool in zip(batch["unit"], pools, strict=True)])}

    def kept(self, unit: Unit, pool: Candidates) -> int:
        """Scores one pool and keeps it as a shard; its size."""
        return self.shards.save(unit.key, unit.candidates, self.recipe.scored(unit, pool))


@dataclass(frozen=True)
class RayEngine:
    """`engine=ray`."""

    config: EngineConfig

    @property
    def name(self) -> str:
        """Blank: the draws are those of a single process."""
        return ""

    @property
    def device(self) -> str:
        """Devices of the two stages: "cpu", "cuda", or both with a stroke between them."""
        devices = [_device(stage) for stage in (self.config.generation, self.config.scoring)]
        return "/".join(dict.fromkeys(devices))

    def fill(self, recipe: Recipe, units: Sequence[Unit], shards: Shards, bar: tqdm) -> None:
        """Draw and score every unit on the cluster of the configuration, which is left as it was found.

        Raises:
            UserError: the cluster cannot be reached or is too small, or the shards cannot be written.
        """
        with cluster(self.config):
            sent = ray.put(portable(recipe))
            try:
                for wave in self.waves(units):
                    for _ in self.pipeline(wave, recipe, sent, shards).iter_batches(batch_size=1):
                        bar.update()
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                raise

    def waves(self, units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
        """The units of one pipeline after the other."""
        for begin in range(0, len(units), WAVE):
            yield units[begin : begin + WAVE]

    def pipeline(self, units: Sequence[Unit], recipe: Recipe, sent: Any, shards: Shards) -> Any:
        """A data set with a row for every shard that has been kept; `sent` is the recipe on the cluster."""
        rows = ray.data.from_items([{"unit": row_of(unit)} for unit in units], override_num_blocks=len(units))
        drawn = rows.map_batches(Drawing, **self.actors("generation", recipe=sent))
        return drawn.map_batches(Scoring, **self.actors("scoring", recipe=sent, shards=shards))

    def actors(self, key: str, **arguments: Any) -> dict[str, Any]:
        """The options of a stage of actors, each of which is made from `arguments`."""
        stage: StageConfig = getattr(self.config, key)
        return {
            "batch_size": 1,
            "compute": ray.data.ActorPoolStrategy(size=stage.actors),
            "num_cpus": stage.cpus,
            "num_gpus": stage.gpus,
            "fn_constructor_kwargs": {"stage": stage, **arguments},
        }


def row_of(unit: Unit) -> str:
    """A unit as text, to travel."""
    ranges = {name: [span.start, span.stop] for name, span in (("ids", unit.prompt_ids), ("candidates", unit.candidates))}
    return json.dumps({"key": unit.key, "prompts": unit.prompts, **ranges})


def unit_of(row: str) -> Unit:
    """The unit that `row_of` wrote."""
    told = json.loads(row)
    return Unit(told["key"], told["prompts"], range(*told["ids"]), range(*told["candidates"]))


def portable(recipe: Recipe) -> Recipe:
    """The recipe with every model on the CPU, from where any machine can take it."""
    return recipe if recipe.policy.model.device.type == "cpu" else _moved(recipe, "cpu", copied=True)


def settled(recipe: Recipe, stage: StageConfig) -> Recipe:
    """The recipe in an actor: its models on the actor's device, torch on the actor's share of the machine."""
    torch.set_num_threads(max(1, int(stage.cpus)))
    return _moved(recipe, _device(stage), copied=False)


def _device(stage: StageConfig) -> str:
    return "cuda" if stage.gpus > 0 else "cpu"


def _moved(recipe: Recipe, device: str, copied: bool) -> Recipe:
    if copied:
        import copy

        recipe = replace(recipe, policy=copy.deepcopy(recipe.policy), base=copy.deepcopy(recipe.base),
                         judges=copy.deepcopy(dict(recipe.judges)))  # fmt: skip
    for model in (recipe.policy.model, recipe.base.model, *(judge.reward.model for judge in recipe.judges.values())):
        model.to(device)
    return recipe


def _cells(values: Sequence[bytes]) -> Any:
    cells = np.empty(len(values), dtype=object)
    cells[:] = values
    return cells


def _widened(pool: Candidates, width: int) -> Candidates:
    """The pool with room for `width` tokens a response: later batches are cut by that width, so it decides bits."""
    missing = width - pool.token_ids.shape[2]
    return replace(pool, token_ids=np.pad(pool.token_ids, ((0, 0), (0, 0), (0, missing))))
