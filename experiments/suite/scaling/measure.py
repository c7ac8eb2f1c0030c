"""What the simulator needs of real runs: bytes of a candidate in a shard, and the speed of sampling on Ray actors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bon import Candidates
from suite.config.run import JudgeConfig, PolicyConfig, SamplingConfig
from suite.data import imdb
from suite.models.policies import load_judge, load_policy
from suite.pools.maker import PROMPT_BLOCK, Recipe
from suite.runtime.command import located

_CPU = torch.device("cpu")


@dataclass
class ScalingConfig:
    """Keys of `experiments/simulate.py`."""

    measure: bool = False
    """Measure again on this machine (a minute on two idle cores); otherwise the tables are written from what is there."""
    ns: list[int] = field(default_factory=lambda: [16, 64])
    """Candidates a prompt of the runs whose speed is predicted; the first is the one that the simulator is set by."""
    processes: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of processes that are measured."""
    units: int = 10
    """Shards in a run."""
    candidates: int = 512
    """In one of them."""
    pool: str = "results/headline/candidates.parquet"
    """The pool whose candidates are stored again, whole and cut short, to see what a token takes."""
    cut: int = 8
    """Tokens that are left of its responses."""
    output: str = "results/scaling"
    """Where measurements are kept."""
    document: str = "docs/experiments/scale.md"
    """The page whose tables are written."""


@dataclass(frozen=True)
class Stored:
    """The size of shards of 32 prompts."""

    tokens: float
    """Mean length of a response."""
    bytes: float
    """Of one candidate."""


@dataclass(frozen=True)
class Run:
    """Sampling on Ray actors of one thread each, once they are warm."""

    n: int
    processes: int
    candidates_per_second: float
    """Of all actors together, by the clock on the wall."""
    core_seconds: float
    """Of the actor's core for one candidate: what others do on that core is not in it."""
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
    from suite.scaling.ray_throughput import sampling_runs

    load = os.getloadavg()[0]
    policy = load_policy(PolicyConfig(name="tiny", path="experiments/models/tiny/policy"), _CPU)
    judge = load_judge(JudgeConfig(path="experiments/models/tiny/proxy", label="POSITIVE"), "reward.proxy", _CPU)
    reviews = imdb.split_reviews(imdb.read_wheel())["evaluation"][:1000]
    prompts = imdb.make_prompts(reviews, lambda text: policy.tokenizer(text)["input_ids"])
    recipe = Recipe(policy, policy, {"proxy": judge}, SamplingConfig(), 0, "cpu")
    pool = Candidates.load(located(config.pool))
    sizes = [stored(one) for one in (shortened(pool, policy.tokenizer, config.cut), pool)]
    return Measured(sizes, sampling_runs(config, recipe, prompts), load)


def stored(pool: Candidates) -> Stored:
    """What the candidates of a pool take in shards of 32 prompts."""
    total = sum(len(block.to_bytes()) for block in _blocks(pool))
    return Stored(float(pool.lengths.mean()), total / pool.lengths.size)


def shortened(pool: Candidates, tokenizer: Any, most: int) -> Candidates:
    """The pool with at most so many tokens of every response, and the text that belongs to them."""
    texts = np.empty(pool.lengths.shape, dtype=object)
    lengths = np.minimum(pool.lengths, most)
    for place in np.ndindex(*lengths.shape):
        texts[place] = tokenizer.decode(pool.token_ids[place][: lengths[place]].tolist(), skip_special_tokens=True)
    return replace(pool, texts=texts, token_ids=pool.token_ids[..., :most], lengths=lengths)


def _blocks(pool: Candidates) -> Iterator[Candidates]:
    for begin in range(0, pool.num_prompts, PROMPT_BLOCK):
        yield pool.rows(np.arange(begin, min(begin + PROMPT_BLOCK, pool.num_prompts)))
