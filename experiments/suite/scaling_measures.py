"""What the simulator needs of real runs: bytes of a candidate in a shard, and the speed of sampling on Ray actors."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bon import Candidates
from suite import imdb
from suite.cost import flops_per_token
from suite.engine_schema import EngineConfig, StageConfig
from suite.policies import Judge, Policy, load_judge, load_policy
from suite.pools import PoolMaker, Recipe, Unit
from suite.schema import JudgeConfig, PolicyConfig, SamplingConfig

_CPU = torch.device("cpu")


@dataclass
class ScalingConfig:
    """Keys of `experiments/simulate.py`."""

    measure: bool = False
    """Measure again on this machine (two idle cores, three minutes); otherwise the tables are written from what is there."""
    ns: list[int] = field(default_factory=lambda: [16, 64])
    """Candidates a prompt of the runs whose speed is predicted; the first is the one that the simulator is set by."""
    processes: list[int] = field(default_factory=lambda: [1, 2])
    units: int = 10
    """Shards in a run."""
    candidates: int = 512
    """In one of them."""
    new_tokens: list[int] = field(default_factory=lambda: [8, 24])
    """Response lengths at which the bytes of a candidate are measured."""
    output: str = "results/scaling"
    document: str = "docs/scaling.md"


@dataclass(frozen=True)
class Stored:
    """The size of a shard of 32 x 256 candidates."""

    tokens: float
    """Mean length of a response."""
    bytes: float
    """Of one candidate."""


@dataclass(frozen=True)
class Run:
    """Sampling on Ray actors, once they are warm."""

    n: int
    processes: int
    candidates_per_second: float
    flops_per_candidate: float


@dataclass(frozen=True)
class Measured:
    """What was measured, and how busy the machine was with other things before (load average over a minute)."""

    stored: list[Stored]
    runs: list[Run]
    load: float

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Measured:
        """From a file."""
        return cls([Stored(**one) for one in told["stored"]], [Run(**one) for one in told["runs"]], told["load"])


def measure(config: ScalingConfig) -> Measured:
    """Both, with the embedded models."""
    load = os.getloadavg()[0]
    policy = load_policy(PolicyConfig(name="tiny", path="experiments/models/tiny/policy"), _CPU)
    judges = {
        name: load_judge(JudgeConfig(path=f"experiments/models/tiny/{name}", label="POSITIVE"), f"reward.{name}", _CPU)
        for name in ("proxy", "gold")
    }
    reviews = imdb.split_reviews(imdb.read_wheel())["evaluation"][:1000]
    prompts = imdb.make_prompts(reviews, lambda text: policy.tokenizer(text)["input_ids"])
    runs = sampling_runs(config, Recipe(policy, policy, judges, SamplingConfig(), 0, "cpu"), prompts)
    return Measured([stored(policy, judges, prompts[:32], length) for length in config.new_tokens], runs, load)


def stored(policy: Policy, judges: dict[str, Judge], prompts: Sequence[Sequence[int]], length: int, n: int = 256) -> Stored:
    """The size of one shard with responses of at most `length` tokens."""
    with tempfile.TemporaryDirectory() as folder:
        maker = PoolMaker(Path(folder), policy, judges, SamplingConfig(max_new_tokens=length), prompts)
        pool = maker.pool(policy, n, seed=0, progress=False)
        return Stored(float(pool.lengths.mean()), sum(maker.sizes(policy, n, 0)) / pool.lengths.size)


def sampling_runs(config: ScalingConfig, recipe: Recipe, prompts: Sequence[Sequence[int]]) -> list[Run]:
    """The first stage alone, for every n and number of actors."""
    from suite.ray_cluster import cluster

    runs = []
    engine = EngineConfig(name="ray", generation=StageConfig(cpus=0.75), scoring=StageConfig(cpus=0.25))
    with cluster(engine):
        for n in config.ns:
            units = _units(config, n, prompts)
            for processes in config.processes:
                actors = replace(engine, generation=StageConfig(actors=processes, cpus=0.75))
                runs.append(_run(actors, recipe, units, n))
    return runs


def _units(config: ScalingConfig, n: int, prompts: Sequence[Sequence[int]]) -> list[Unit]:
    size = config.candidates // n
    starts = [unit * size % (len(prompts) - size) for unit in range(config.units)]
    return [Unit("measured", [list(p) for p in prompts[s : s + size]], range(s, s + size), range(n)) for s in starts]


def _run(engine: EngineConfig, recipe: Recipe, units: Sequence[Unit], n: int) -> Run:
    """Speed between the first and the last round of shards: starting actors and the last one's waiting are left out."""
    import ray

    from bon.candidate_files import candidates_from_bytes
    from suite.ray_engine import Drawing, RayEngine, row_of

    rows = ray.data.from_items([{"unit": row_of(unit)} for unit in units], override_num_blocks=len(units))
    drawn = rows.map_batches(Drawing, **RayEngine(engine).actors("generation", recipe=ray.put(recipe)))
    moments, flops = [], []
    for batch in drawn.iter_batches(batch_size=1):
        moments.append(time.perf_counter())
        flops.append(_flops(recipe, candidates_from_bytes(batch["pool"][0])))
    warm = engine.generation.actors
    rate = (len(units) - warm) * len(units[0].prompts) * n / (moments[-1] - moments[warm - 1])
    return Run(n, warm, rate, sum(flops) / len(flops))


def _flops(recipe: Recipe, pool: Candidates) -> float:
    """FLOPs of drawing one candidate: its share of the prompt, and all its tokens but the last."""
    prompt = sum(map(len, pool.prompt_token_ids)) / pool.num_prompts
    return flops_per_token(recipe.policy.model) * (prompt / pool.num_candidates + float(pool.lengths.mean()) - 1)
