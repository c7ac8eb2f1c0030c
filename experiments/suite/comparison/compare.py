"""The comparison itself: prompts, models, pools, training, rows. Everything expensive is cached under what determines it."""

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
from bon.rewards import RewardError
from suite.analysis.equal_cost import at_equal_flops
from suite.analysis.findings import (
    Findings,
    Overoptimisation,
    TrainingPath,
    best_of_n_overoptimisation,
    compared,
    training_overoptimisation,
)
from suite.baselines.interface import Training, TrainingTask, train
from suite.baselines.published import check_published
from suite.config.baselines import EVALUATION_KEYS, PublishedConfig
from suite.config.run import RunConfig
from suite.data.tasks import read_task
from suite.metrics.cost import Costs, request_flops, seconds_spent
from suite.metrics.evaluation import Study, checkpoint_rows, curve_rows
from suite.metrics.rows import Row
from suite.metrics.vocabulary import SPENT
from suite.models.files import check_label, here, matching_tokenizer
from suite.models.policies import Policy, check_files, load_checkpoint, load_policy
from suite.models.rewards import Judge, check_function, load_function, load_judge
from suite.models.sources import found_path
from suite.pools.engines import check_engine, chosen_engine
from suite.pools.maker import PoolMaker
from suite.pools.shards import open_shards
from suite.runtime import device as devices
from suite.runtime import distributed
from suite.runtime.device import choose_device
from suite.runtime.errors import UserError
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


@dataclass(frozen=True)
class Outcome:
    """What a comparison found.

    Attributes:
        rows: every number.
        pools: method -> candidates; "base" and the tuned method.
        training: what the baseline's training gave, None without a baseline.
        findings: tuned method -> best-of-n against it.
        costs: tuned method -> its FLOPs and those of best-of-n.
        overoptimisation: method -> fits, and whether gold fell while proxy rose.
    """

    rows: list[Row]
    pools: dict[str, Candidates]
    training: Training | None = None
    findings: dict[str, Findings] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    overoptimisation: dict[str, Overoptimisation] = field(default_factory=dict)

    @property
    def policies(self) -> dict[str, Path]:
        """Tuned method -> folder of its last checkpoint."""
        training = self.training
        if training is None:
            return {}
        return {method: training.checkpoints[max(training.checkpoints)] for method in self.pools if method != "base"}


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


def compare(comparison: Comparison, on_update: Callable[[list[dict[str, Any]]], None] | None = None) -> Outcome:
    """Draw, train, draw again, and turn it all into rows; `on_update` is given the training's log whenever it has grown.

    Raises:
        UserError: a reward fails on a text, or training is another's.
    """
    try:
        return _compare(comparison, on_update)
    except RewardError as error:
        raise UserError(f"reward={comparison.config.reward.name}: {error}") from None


def _compare(comparison: Comparison, on_update: Callable[[list[dict[str, Any]]], None] | None) -> Outcome:
    config = comparison.config
    cache = located(config.cache)
    maker = pool_maker(comparison)
    with comparison.timed("base pool") as spent:
        base = maker.pool(comparison.policy, config.num_candidates, config.seed)
        spent(seconds_spent(base))
    study = Study(base, config.seed, config.resamples)
    with comparison.timed("evaluation"):
        flops = comparison.request_flops(base, comparison.policy)
        rows = list(curve_rows(study, base, "base", None, config.n, flops))
        # Without gold there is nothing that could fall while the proxy rises.
        over = {"best_of_n": best_of_n_overoptimisation(study)} if study.judge == "gold" else {}
    if config.baseline.name == "none":
        return Outcome(rows, {"base": base}, overoptimisation=over)

    method = config.baseline.name
    with comparison.timed("training") as spent:
        training = train(replace(training_task(comparison, cache), on_update=on_update))
        spent(training.seconds)
        if on_update is not None:
            on_update(training.log)  # nothing was told of a training that was done before
    last = max(training.checkpoints)
    if training.measured:
        rows += training_rows(method, config.seed, last, training)
    tuned_pools = []
    for update, tuned, pool in checkpoint_pools(comparison, maker, training):
        is_last = update == last
        tuned_pools.append(pool)
        with comparison.timed("evaluation"):
            if is_last:
                tuned_flops = comparison.request_flops(pool, tuned)
                rows += curve_rows(study, pool, method, update, config.n, tuned_flops)
            else:
                rows += checkpoint_rows(study, pool, method, update)
    with comparison.timed("evaluation"):
        path = TrainingPath.of(base, tuned_pools)
        costs = None
        if training.measured:
            costs = Costs(training.flops, float(tuned_flops[:, 0].mean()), flops.mean(0))
        equal = at_equal_flops(study, pool, flops, tuned_flops, config.n)
        found = {method: replace(compared(study, pool, path, costs, config.n), equal_flops=equal)}
        if study.judge == "gold":
            over[method] = training_overoptimisation(study, path)
    return Outcome(rows, {"base": base, method: pool}, training, found, {} if costs is None else {method: costs}, over)


def pool_maker(comparison: Comparison) -> PoolMaker:
    """What draws the pools of a comparison, on the engine that its configuration names."""
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


def checkpoint_pools(comparison: Comparison, maker: PoolMaker, training: Training) -> Iterator[tuple[int, Policy, Candidates]]:
    """Update, policy and pool of every checkpoint that is evaluated, in turn; the last one's has the most candidates."""
    config, last = comparison.config, max(training.checkpoints)
    evaluated = sorted(training.checkpoints)[:: -config.baseline.evaluate_every][::-1]
    for update in evaluated:
        folder = training.checkpoints[update]
        tuned = load_checkpoint(comparison.policy, folder)
        count = max(config.baseline.num_candidates, config.n) if update == last else config.baseline.checkpoint_candidates
        with comparison.timed(f"{config.baseline.name} pools") as spent:
            pool = maker.pool(tuned, count, config.seed)
            spent(seconds_spent(pool))
        yield update, tuned, pool


def training_task(comparison: Comparison, cache: Path) -> TrainingTask:
    """What the configured baseline is given; its folder is named by a hash of all that determines the result."""
    config = comparison.config
    trained_by = {k: v for k, v in asdict(config.baseline).items() if k not in (*EVALUATION_KEYS, "precision")}
    key = digest(
        {
            "format": _FORMAT,
            "baseline": trained_by,
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
    """What the manifest says of data and models."""
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


def training_rows(method: str, seed: int, step: int, training: Training) -> list[Row]:
    """What training cost, once."""
    return [Row(method, seed, step, 1, f"training_{unit}", getattr(training, unit)) for unit in SPENT]
