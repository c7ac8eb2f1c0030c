"""Preparation of a comparison, before anything is drawn: its checked configuration with prompts, models and caches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bon import Candidates
from suite.baselines.interface import TrainingTask
from suite.baselines.published import check_published
from suite.config.baselines import PublishedConfig, trained_by
from suite.config.run import RunConfig
from suite.data.tasks import read_task
from suite.metrics.cost import request_flops
from suite.models.files import check_label, here, matching_tokenizer
from suite.models.policies import Policy, check_files, load_policy
from suite.models.rewards import Judge, check_function, load_function, load_judge
from suite.models.sources import found_path
from suite.pools.engines import check_engine, chosen_engine
from suite.pools.maker import PoolMaker
from suite.pools.shards import open_shards
from suite.runtime import device as devices
from suite.runtime import distributed
from suite.runtime.device import choose_device
from suite.runtime.hashing import digest
from suite.runtime.paths import located, shown_path

_FORMAT = 4


@dataclass
class Comparison:
    """A checked configuration with its prompts and models: everything a run needs, nothing drawn yet."""

    config: RunConfig
    name: str
    device: torch.device
    policy: Policy
    judges: dict[str, Judge]
    evaluation_prompts: list[list[int]]
    training_prompts: list[list[int]]
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's folder in results/."""
        return located(self.config.results) / self.name

    @property
    def dtype(self) -> str:
        """The precision that policies are sampled in."""
        return str(self.policy.model.dtype).removeprefix("torch.")

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[Callable[[float], None]]:
        """Adds to the seconds of a stage of this run.

        What comes from the cache was paid for in an earlier sitting. The caller is given a function to say what is known to
        have been spent on it; where that is more than this sitting took, it counts.
        """
        start, known = time.perf_counter(), [0.0]
        try:
            yield known.append
        finally:
            took = max(time.perf_counter() - start, *known)
            self.seconds[stage] = self.seconds.get(stage, 0.0) + took

    def request_flops(self, pool: Candidates, policy: Policy) -> NDArray[np.float64]:
        """FLOPs of a request by best-of-n, for every prompt and n: [P, N]."""
        return request_flops(pool, policy.model, self.judges["proxy"].reward.model)


def prepare(config: RunConfig) -> Comparison:
    """Fetch what lies on a hub, read the data, check what belongs together, and load the models.

    Raises:
        UserError: too few prompts for what is asked, or a model or a reward that cannot be used.
    """
    check_engine(config.engine)
    policy_files = here(replace(config.policy, path=found_path(config.policy)), "policy", "policy=tiny")
    check_files(policy_files.path, f"policy={config.policy.name}")
    judge_files = {}
    for name, judge in config.reward.judges().items():
        key = config.reward.key(name)
        if judge._target_ is None:
            judge = here(judge, key, "reward=tiny")
            check_files(judge.path, key)
            check_label(judge, key)
        judge_files[name] = judge
    device = choose_device(config.device)
    devices.mixes(device, getattr(config.baseline, "precision", "auto"))  # refuses what the device cannot do
    task = read_task(config)
    tokenizer, context = matching_tokenizer(policy_files.path, "policy.path")
    prompts = task.encoded(lambda text: tokenizer(text)["input_ids"], context)
    prompts["evaluation"] = prompts["evaluation"][: config.num_prompts]
    some = tokenizer.batch_decode(prompts["evaluation"][:3], skip_special_tokens=True)
    for name, judge in judge_files.items():
        if judge._target_ is not None:
            key = f"{config.reward.key(name)}._target_"
            check_function(load_function(judge._target_, key), some, key)
    if isinstance(config.baseline, PublishedConfig):
        check_published(config.baseline, tokenizer)
    policy = load_policy(policy_files, device)
    judges = {name: load_judge(judge, config.reward.key(name), device) for name, judge in judge_files.items()}
    return Comparison(
        config=config,
        name=config.name or f"run-n{config.n}-seed{config.seed}-{digest(asdict(config))[:8]}",
        device=device,
        policy=policy,
        judges=judges,
        evaluation_prompts=prompts["evaluation"],
        training_prompts=prompts["ppo"],
        data=task.facts,
    )


def pool_maker(comparison: Comparison) -> PoolMaker:
    """Return the maker of the pools of a comparison, on the engine that its configuration names."""
    config, engine = comparison.config, comparison.config.engine
    return PoolMaker(
        located(config.cache),
        comparison.policy,
        comparison.judges,
        config.sampling,
        comparison.evaluation_prompts,
        shards=None if engine.shards is None else open_shards(engine.shards),
        engine=chosen_engine(engine),
    )


def training_task(comparison: Comparison, cache: Path) -> TrainingTask:
    """Return the input of the configured baseline; its folder is named by a hash of all that determines the result."""
    config = comparison.config
    key = digest(
        {
            "format": _FORMAT,
            "baseline": trained_by(config.baseline),
            "sampling": asdict(config.sampling),
            "policy": comparison.policy.digest,
            "proxy": [comparison.judges["proxy"].digest, config.reward.proxy.label],
            "prompts": comparison.training_prompts,
            "seed": config.seed,
            "device": comparison.device.type,
            **devices.determining(comparison.device, getattr(config.baseline, "precision", "auto")),
            **distributed.determining(),
        }
    )
    return TrainingTask(
        config=config.baseline,
        sampling=config.sampling,
        policy=comparison.policy,
        proxy=comparison.judges["proxy"],
        prompts=comparison.training_prompts,
        seed=config.seed,
        folder=cache / config.baseline.name / key,
    )


def model_facts(comparison: Comparison) -> dict[str, Any]:
    """Return what the manifest says of data and models."""
    models: dict[str, Policy | Judge] = {"policy": comparison.policy, **comparison.judges}
    return {
        "data": {
            **comparison.data,
            "evaluation_prompts": digest(comparison.evaluation_prompts),
            "training_prompts": digest(comparison.training_prompts),
        },
        "models": {
            name: {
                "source": None if model.folder is None else shown_path(model.folder),
                "revision": model.revision,
                "sha256": model.digest,
                "parameters": model.parameters,
            }
            for name, model in models.items()
        },
        "device": str(comparison.device),
        "dtype": comparison.dtype,
    }
