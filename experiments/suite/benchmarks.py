"""Speed, side by side in one process, in turns: this sampler against transformers' `generate`, this PPO against stock TRL.

Speeds of shared machines drift, so every contender runs once in each round, and what is reported is the median and the median
of the ratios of a round.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bon import generate_candidates
from suite import imdb
from suite.baseline_schema import PPOConfig
from suite.baselines import TrainingTask
from suite.baselines.ppo import stock_update_seconds
from suite.baselines.ppo import train as train_ppo
from suite.policies import Policy, choose_device, load_judge, load_policy
from suite.schema import BenchmarkConfig


@dataclass(frozen=True)
class Speed:
    """One line of the table."""

    what: str
    contender: str
    median: float
    unit: str
    ratio: float
    """Median over rounds of this contender's speed over the reference's in the same round."""


def measure(config: BenchmarkConfig) -> list[Speed]:
    """Every line of the table that `config.parts` asks for."""
    device = choose_device("auto")
    policy = load_policy(config.policy, device)
    proxy = load_judge(config.reward.proxy, "reward.proxy", device)
    splits = imdb.split_reviews(imdb.read_wheel())

    def prompts(split: str) -> list[list[int]]:
        return imdb.make_prompts(splits[split], lambda text: policy.tokenizer(text)["input_ids"])

    speeds: list[Speed] = []
    if "sampler" in config.parts:
        chosen = prompts("evaluation")[: config.num_prompts]
        speeds += sampler_speeds(policy, chosen, config.ns, config.rounds, config.sampling.max_new_tokens)
    if "ppo" in config.parts:
        task = TrainingTask(config.baseline, config.sampling, policy, proxy, prompts("ppo"), 0, Path())
        speeds += ppo_speeds(task, config.updates, config.rounds)
    return speeds


def gemm_limit(dtype: torch.dtype = torch.float32, size: int = 1024, repeats: int = 20) -> float:
    """Floating-point operations a second of a large square matrix product."""
    a = torch.randn(size, size).to(dtype)
    a @ a
    start = time.perf_counter()
    for _ in range(repeats):
        a @ a
    return repeats * 2 * size**3 / (time.perf_counter() - start)


def sampler_speeds(
    policy: Policy, prompts: Sequence[Sequence[int]], ns: Sequence[int], rounds: int, new_tokens: int
) -> list[Speed]:
    """Tokens a second of drawing n responses for every prompt. Reference: `generate(num_return_sequences=n)`, fp32."""
    lines = []
    for n in ns:
        contenders: dict[str, Callable[[], int]] = {
            "transformers generate, fp32": lambda n=n: _generate(policy, prompts, n, new_tokens),  # type: ignore[misc]
            "bon, fp32": lambda n=n: int(  # type: ignore[misc]
                generate_candidates(policy.model, policy.tokenizer, prompts, n, max_new_tokens=new_tokens).lengths.sum()
            ),
        }
        lines += _in_turns(f"sampling, n={n}", contenders, rounds, "tokens/s")
    per_token = 2 * policy.parameters
    limit = gemm_limit()
    own = next(line.median for line in reversed(lines) if line.contender.startswith("bon"))
    lines.append(Speed(f"sampling, n={ns[-1]}", "share of the matrix-product limit", own * per_token / limit, "", 1.0))
    return lines


def ppo_speeds(task: TrainingTask, updates: int, rounds: int) -> list[Speed]:
    """Seconds of a PPO update at equal settings. Reference: TRL's trainer with its own roll-outs and critic."""
    assert isinstance(task.config, PPOConfig)
    config = replace(task.config, updates=updates, checkpoint_every=updates)

    def ours(shared: bool) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            settings = replace(task, config=replace(config, shared_critic=shared), folder=Path(folder))
            return [row["seconds"] for row in train_ppo(settings).log]

    seconds: dict[str, list[float]] = {"stock TRL": [], "ours, critic of its own": [], "ours, shared critic": []}
    for _ in range(rounds):
        gc.collect()
        # The first update of each carries one-time costs.
        seconds["stock TRL"].append(float(np.median(stock_update_seconds(replace(task, config=config))[1:])))
        seconds["ours, critic of its own"].append(float(np.median(ours(False)[1:])))
        seconds["ours, shared critic"].append(float(np.median(ours(True)[1:])))
    stock = np.array(seconds["stock TRL"])
    what = f"PPO update, {config.batch_size} prompts, {config.num_ppo_epochs} epochs"
    return [
        Speed(what, name, float(np.median(values)), "s/update", float(np.median(stock / np.array(values))))
        for name, values in seconds.items()
    ]


def _in_turns(what: str, contenders: dict[str, Callable[[], int]], rounds: int, unit: str) -> list[Speed]:
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for done in range(rounds + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            work = contender()
            if done:  # the first round warms up
                speeds[name].append(work / (time.perf_counter() - start))
    reference = np.array(next(iter(speeds.values())))
    return [
        Speed(what, name, float(np.median(values)), unit, float(np.median(np.array(values) / reference)))
        for name, values in speeds.items()
    ]


@torch.inference_mode()
def _generate(policy: Policy, prompts: Sequence[Sequence[int]], n: int, new_tokens: int) -> int:
    """Draw with transformers' `generate`, 16 prompts a call; returns the tokens drawn."""
    tokens = 0
    for begin in range(0, len(prompts), 16):
        batch = policy.tokenizer.pad({"input_ids": [list(ids) for ids in prompts[begin : begin + 16]]}, return_tensors="pt")
        output = policy.model.generate(
            **batch,
            do_sample=True,
            top_k=0,
            max_new_tokens=new_tokens,
            num_return_sequences=n,
            pad_token_id=policy.tokenizer.pad_token_id,
        )
        tokens += int((output[:, batch["input_ids"].shape[1] :] != policy.tokenizer.pad_token_id).sum())
    return tokens
