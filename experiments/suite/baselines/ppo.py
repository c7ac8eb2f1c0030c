"""PPO by TRL (`trl.experimental.ppo`), which is the only thing in this project that knows how that trainer works.

What stands between TRL's trainer and an honest, fast, repeatable baseline, each measured or read in TRL 1.12:

- the reward is any callable on text: a module that decodes, behind the two attributes `get_reward` asks for;
- roll-outs come from the suite's own token loop, at the temperature and length of the evaluation;
- prompts of update u, its roll-outs and its minibatches depend on (seed, u) alone, so runs repeat and can go on in the middle;
- `max_grad_norm` is ignored by the trainer: a hook on the optimizer clips;
- the critic can be a head on the policy's trunk, whose hidden states the policy's own forward then reuses;
- two `gc.collect()` an update walk over everything that was ever imported: it is frozen first.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import logging
import math
import os
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PrinterCallback

from suite.baselines import Training, TrainingTask
from suite.baselines.checkpoints import Checkpoints, checkpoint_folder, read_log, restore
from suite.baselines.stand_ins import ORDER, Critic, RollOuts, TextReward
from suite.cost import FlopMeter
from suite.policies import prepared

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def train(task: TrainingTask) -> Training:
    """Train a copy of the policy with TRL's PPO, from the newest checkpoint in `task.folder` on."""
    config = task.config
    for leftover in task.folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    steps = sorted({*range(config.checkpoint_every, config.updates, config.checkpoint_every), config.updates})
    done = [update for update in steps if (checkpoint_folder(task.folder, update) / "updates.jsonl").is_file()]
    reused = bool(done) and done[-1] == config.updates
    if not reused:
        with _own_randomness():
            _train(task, checkpoint_folder(task.folder, done[-1]) if done else None)
    log = read_log(checkpoint_folder(task.folder, config.updates))
    return Training(
        checkpoints={update: checkpoint_folder(task.folder, update) for update in steps},
        log=log,
        tokens=sum(row["tokens"] for row in log),
        flops=sum(row["flops"] for row in log),
        seconds=sum(row["seconds"] for row in log),
        reused=reused,
    )


def _train(task: TrainingTask, resume: Path | None) -> None:
    from datasets import Dataset
    from trl.experimental.ppo import PPOTrainer

    config, tokenizer, device = task.config, task.policy.tokenizer, task.policy.model.device
    log = read_log(resume) if resume else []
    first = len(log) + 1
    width = max(map(len, task.prompts))
    padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + list(ids) for ids in task.prompts])

    source = resume or Path(task.policy.folder)
    policy = prepared(type(task.policy.model).from_pretrained(source, dtype=torch.float32), tokenizer, device)
    reference = copy.deepcopy(task.policy.model)
    critic: Any = Critic(policy, config.shared_critic).to(device)
    trained = list(dict.fromkeys([*policy.parameters(), *critic.parameters()]))
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    if resume:
        restore(resume, critic, optimizer)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", config.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: 1 - min(update, config.updates - 1) / config.updates, last_epoch=first - 2
    )
    norms: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: norms.append(float(nn.utils.clip_grad_norm_(trained, config.max_grad_norm))))
    roll_outs = RollOuts(policy, task, first)
    policy.generate = roll_outs
    reward: Any = TextReward(task, width)
    judge = getattr(task.proxy.reward, "model", None)  # a reward need not be a model
    meter = FlopMeter([policy, reference, critic, *([judge] if isinstance(judge, nn.Module) else [])])
    bar = tqdm(total=config.updates, initial=first - 1, desc="training ppo", unit="update", disable=None)

    class Trainer(PPOTrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            log.append(_update_row(first + self.state.global_step - 1, logs, reward.last, norms, roll_outs, meter, clock))
            bar.update()
            bar.set_postfix(reward=f"{logs['objective/scores']:.2f}", kl=f"{logs['objective/kl']:.1f}")

    with tempfile.TemporaryDirectory() as scratch:
        trainer: Any = Trainer(
            args=_arguments(task, config.updates - first + 1, scratch),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=critic,
            train_dataset=Dataset.from_dict({"input_ids": padded[: config.batch_size].tolist()}),
            optimizers=(optimizer, scheduler),
            callbacks=[Checkpoints(task, policy, critic, optimizer, log)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.dataloader = [
            {"input_ids": padded[_batch(task.seed, update, len(padded), config.batch_size)]}
            for update in range(first, config.updates + 1)
        ]
        gc.collect()
        gc.freeze()
        clock = _Clock()
        try:
            with bar, meter, contextlib.redirect_stdout(io.StringIO()):
                trainer.train()
        finally:
            gc.unfreeze()


def _arguments(task: TrainingTask, updates: int, folder: str) -> Any:
    """TRL's settings for this many updates."""
    from trl.experimental.ppo import PPOConfig

    config = task.config
    return PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=config.num_mini_batches,
        total_episodes=updates * config.batch_size,
        local_rollout_forward_batch_size=config.batch_size,
        num_ppo_epochs=config.num_ppo_epochs,
        learning_rate=config.learning_rate,
        kl_coef=config.kl_coef,
        cliprange=config.cliprange,
        vf_coef=config.vf_coef,
        gamma=config.gamma,
        lam=config.lam,
        whiten_rewards=config.whiten_rewards,
        response_length=task.sampling.max_new_tokens,
        temperature=task.sampling.temperature,
        stop_token="eos" if task.policy.tokenizer.eos_token_id is not None else None,
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=task.policy.model.device.type == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=task.seed,
    )


def stock_update_seconds(task: TrainingTask) -> list[float]:
    """Seconds of every update of TRL's trainer as TRL's example sets it up, at the settings of `task`."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOTrainer

    tokenizer, device = task.policy.tokenizer, task.policy.model.device
    width = max(map(len, task.prompts))
    rows = [[tokenizer.pad_token_id] * (width - len(ids)) + list(ids) for ids in task.prompts]
    policy = prepared(type(task.policy.model).from_pretrained(task.policy.folder, dtype=torch.float32), tokenizer, device)
    value = AutoModelForSequenceClassification.from_pretrained(task.policy.folder, num_labels=1, dtype=torch.float32)
    reward: Any = TextReward(task, width)
    seconds: list[float] = []
    clock = _Clock()

    class Trainer(PPOTrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            seconds.append(clock.lap())

    with _own_randomness(), tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            args=_arguments(task, task.config.updates, scratch),
            processing_class=tokenizer,
            model=policy,
            ref_model=copy.deepcopy(task.policy.model),
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": rows}),
        )
        trainer.remove_callback(PrinterCallback)
        clock.lap()
        trainer.train()
    return seconds


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def _batch(seed: int, update: int, prompts: int, batch_size: int) -> np.ndarray:
    """Indices of the prompts of an update (counted from 1): whole permutations one after another, from (seed, epoch)."""
    wanted = np.arange((update - 1) * batch_size, update * batch_size)
    epochs = {int(e): np.random.default_rng([seed, ORDER, int(e)]).permutation(prompts) for e in set(wanted // prompts)}
    return np.array([epochs[int(w // prompts)][w % prompts] for w in wanted])


def _update_row(
    update: int,
    metrics: dict[str, float],
    rewards: np.ndarray,
    norms: list[float],
    roll_outs: RollOuts,
    meter: FlopMeter,
    clock: _Clock,
) -> dict[str, Any]:
    """What is kept of an update: TRL's metrics, the rewards' distribution, gradient norms, and what it cost."""
    counts, edges = np.histogram(rewards, bins=24)
    row: dict[str, Any] = {"update": update, **{name: float(value) for name, value in metrics.items()}}
    if math.isnan(row.get("val/ratio_var", 0.0)):
        del row["val/ratio_var"]  # a single minibatch in a single epoch has no variance
    row.update({f"reward/quantile_{int(100 * q)}": float(np.quantile(rewards, q)) for q in _QUANTILES})
    row["reward/histogram"] = {"counts": counts.tolist(), "edges": edges.tolist()}
    row["episode"] = update * len(rewards)
    row["policy/grad_norm"] = float(np.mean(norms))
    row["tokens"] = roll_outs.tokens
    row["flops"] = meter.lap()
    row["seconds"] = clock.lap()
    norms.clear()
    roll_outs.tokens = 0
    return row


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """TRL reads and seeds the global generators: they are given back as they were. Its chatter is silenced."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    level = logging.getLogger("accelerate").level
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # TRL 1.12 still uses names that transformers 5.23 has renamed.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
            # The variance of the ratios of a single minibatch.
            warnings.filterwarnings("ignore", message=r".*degrees of freedom is <= 0.*", category=UserWarning)
            yield
    finally:
        logging.getLogger("accelerate").setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
