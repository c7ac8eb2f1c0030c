"""Measurements that the simulator needs: bytes of a candidate in a shard, and the speed of sampling on Ray actors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bon import Candidates
from suite.config.run import JudgeConfig, PolicyConfig, SamplingConfig
from suite.config.scaling import ScalingConfig
from suite.data import imdb
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.pools.recipe import PROMPT_BLOCK, Recipe
from suite.runtime.paths import located
from suite.scaling.measured import Measured, Stored

_CPU = torch.device("cpu")


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
    """Return the bytes that candidates of a pool take in shards of 32 prompts."""
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
