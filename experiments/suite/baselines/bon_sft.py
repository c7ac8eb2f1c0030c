"""Rejection-sampling fine-tuning: best-of-n responses to the training prompts, drawn once, become the data of a fine-tuning.

The base policy draws `best_of` responses to each of `num_prompts` training prompts, the proxy reward keeps one of them, and
the policy is fitted to those by maximum likelihood (one round of RAFT, Dong et al. 2023). What it learns from is best-of-n, so
with enough prompts it tends to that policy, which is log n - (n-1)/n nats from the base at most. With few prompts and many
epochs it learns the responses by heart instead, and its KL grows beyond.

An update is one step of AdamW. A run that was interrupted goes on from its last checkpoint and ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bon import Candidates, generate_candidates, score_candidates
from suite.baselines.checkpoints import Checkpoints, read_log, restore
from suite.baselines.health import warn
from suite.baselines.interface import Training, TrainingTask
from suite.baselines.streams import POOL
from suite.baselines.updates import Clock, adam, batch, clipped, resumable, scheduled, update_row
from suite.config.baselines import BonSFTConfig
from suite.models.flops import FlopMeter, RewardMeter, models_of
from suite.models.policies import prepared
from suite.runtime.device import autocast
from suite.runtime.hashing import digest


def train(task: TrainingTask) -> Training:
    """Fine-tune a copy of the policy on the best of its own responses, from the newest checkpoint in `task.folder` on."""
    return resumable(task, _train)


def _train(task: TrainingTask, resume: Path | None) -> None:
    config, device = _settings(task), task.policy.model.device
    pool = training_pool(task)
    prompts, responses, rewards = chosen(pool, config.choice)
    log = read_log(resume) if resume else []
    first = len(log) + 1

    source = resume or Path(task.policy.folder)
    policy = prepared(
        type(task.policy.model).from_pretrained(source, dtype=torch.float32), task.policy.tokenizer, device
    )  # without dropout, as `prepared` leaves it
    trained = list(policy.parameters())
    optimizer = adam(config, policy)
    if resume:
        restore(resume, optimizer)
    scheduler = scheduled(optimizer, config, first)
    norms = clipped(optimizer, trained, config.max_grad_norm)
    checkpoints = Checkpoints(task, policy, optimizer, log)
    clock = Clock()
    for update in tqdm(
        range(first, config.updates + 1), total=config.updates, initial=first - 1, desc="training bon_sft", unit="update",
        disable=None,
    ):  # fmt: skip
        rows = batch(task.seed, update, len(prompts), config.batch_size)
        with FlopMeter([policy]) as meter, autocast(device, config.precision):
            loss = response_loss(policy, [prompts[r] for r in rows], [responses[r] for r in rows], task.sampling.temperature)
        loss.backward()
        rate = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        metrics = {"loss": loss.item(), "lr": rate, "objective/scores": float(rewards[rows].mean())}
        # All responses are drawn before the first update, which is charged for them.
        tokens, read, flops = 0, 0, meter.flops
        if update == 1:
            tokens, read = int(pool.lengths.sum()), pool.metadata["reward_tokens"]
            flops += pool.metadata["flops"]
        row = update_row(update, metrics, rewards[rows], norms, tokens, read, flops, clock)
        row["episode"] = pool.lengths.size
        if update == 1:
            row["seconds"] += pool.metadata["seconds"] + pool.metadata["scoring_seconds"]
            row["tokens_per_second"] = tokens / row["seconds"]
        log.append(row)
        warn(log)
        checkpoints.keep()


def training_pool(task: TrainingTask) -> Candidates:
    """`best_of` responses to each of `num_prompts` training prompts, from the base policy, scored by the proxy; drawn once."""
    config = _settings(task)
    picked = batch(task.seed, 1, len(task.prompts), config.num_prompts)
    prompts = [list(task.prompts[p]) for p in picked]
    drawn_by = {
        "policy": task.policy.digest,
        "proxy": getattr(task.proxy, "digest", None),
        "sampling": asdict(task.sampling),
        "prompts": prompts,
        "best_of": config.best_of,
        "seed": task.seed,
    }
    path = task.folder / f"pool-{digest(drawn_by)}.parquet"
    if path.is_file():
        return Candidates.load(path)
    with FlopMeter([task.policy.model, *models_of(task.proxy.reward)]) as meter:
        pool = generate_candidates(
            task.policy.model,
            task.policy.tokenizer,
            prompts,
            config.best_of,
            # A stream of its own: the evaluation draws with the seed itself.
            seed=int(np.random.SeedSequence([task.seed, POOL]).generate_state(1)[0]),
            progress=True,
            **asdict(task.sampling),
        )
        start, read = time.perf_counter(), RewardMeter(task.proxy.reward)
        pool = score_candidates(pool, proxy=task.proxy.reward)
        spent = {"scoring_seconds": time.perf_counter() - start, "reward_tokens": read.lap(), "flops": meter.flops}
        pool = replace(pool, metadata={**pool.metadata, **spent})
    pool.save(path)
    return pool


def chosen(pool: Candidates, choice: str = "best") -> tuple[list[list[int]], list[list[int]], np.ndarray]:
    """Token ids of every prompt and of its chosen response (the end-of-sequence token included), and the rewards [P].

    The `random` choice is the first candidate: candidates of a prompt are drawn alike.
    """
    scores = pool.scores["proxy"]
    best = scores.argmax(1) if choice == "best" else np.zeros(len(scores), dtype=np.int64)
    every = range(pool.num_prompts)
    responses = [pool.token_ids[p, best[p], : pool.lengths[p, best[p]]].tolist() for p in every]
    return [list(ids) for ids in pool.prompt_token_ids], responses, pool.scores["proxy"][every, best]


def response_loss(
    policy: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], temperature: float
) -> torch.Tensor:
    """Mean negative log-likelihood of the response tokens, in nats a token, of the policy as it is sampled.

    Prompt tokens and padding are no part of it. At another temperature than 1 it is the warped policy that is fitted, because
    that one draws the responses in the evaluation.
    """
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, rows))
    # Padding stands on the right, where a causal model never looks.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=policy.device)
    position = torch.arange(width, device=policy.device)
    begin, end = (torch.tensor(list(map(len, part)), device=policy.device)[:, None] for part in (prompts, rows))
    mask = position < end
    inside = ((position >= begin) & mask)[:, 1:]
    logits = policy(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1].float() / temperature
    return torch.nn.functional.cross_entropy(logits[inside], ids[:, 1:][inside])


def _settings(task: TrainingTask) -> BonSFTConfig:
    assert isinstance(task.config, BonSFTConfig)
    return task.config
