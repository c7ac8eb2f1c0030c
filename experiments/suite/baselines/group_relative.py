"""RLOO and GRPO by TRL's own trainers, which take the same hooks: several responses a prompt, each against the others.

What stands between those trainers and a baseline on the same footing as PPO, each read in TRL 1.12:

- roll-outs come from the suite's own token loop, at the temperature and length of the evaluation, from (seed, update) alone;
- the reward is the proxy on prompt and response as one text, decoded as the evaluation decodes them;
- neither trainer says where a left-padded prompt begins, and a model with absolute positions (GPT-2) then scores responses
  of another distribution than the one they were drawn from: a hook counts the positions from the first real token;
- the reference would be loaded by the model's name, which is the checkpoint's after an interruption: the base policy is put
  in its place;
- the trainers log `kl` as a mean per token; `objective/kl` is the same in nats per response, as PPO's log has it (for GRPO
  by Schulman's k3 estimator).

A run that was interrupted goes on from its last checkpoint and ends with the same bits.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from suite.baselines.checkpoints import Checkpoints, read_log, restore
from suite.baselines.health import warn
from suite.baselines.interface import TrainingTask
from suite.baselines.rollouts import RollOuts
from suite.baselines.streams import MINIBATCHES
from suite.baselines.trl_adapters import text_rewards
from suite.baselines.updates import Clock, adam, batch, clipped, scheduled, update_row
from suite.config.baselines import GroupRelativeConfig
from suite.models.flops import FlopMeter, RewardMeter, models_of
from suite.models.policies import prepared

#: Of one sitting, or of the clock, or described better by the suite's own columns.
_LEFT_OUT = ("epoch", "num_tokens", "step_time", "grad_norm")


class Hooks:
    """What stands before the trainer in its subclasses: prompts are token ids, batches are given, responses are drawn here."""

    batches: list[list[dict[str, Any]]]
    roll_outs: RollOuts

    def get_train_dataloader(self) -> Any:
        """The batches of all updates; the trainer draws responses to the first of an update and keeps them for the others."""
        return self.batches

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def drawn(self, prompts: list[list[int]]) -> list[list[int]]:
        """A response to each prompt of an update; the prompt of a group stands there as often as it has responses."""
        task, update = self.roll_outs.task, self.roll_outs.update
        repeats = settings(task).num_generations
        responses = self.roll_outs.draw(prompts[::repeats], repeats)
        # The trainer shuffles the responses before it cuts them into mini-batches.
        torch.manual_seed(int(np.random.SeedSequence([task.seed, MINIBATCHES, update]).generate_state(1)[0]))
        return [row[:length].tolist() for row, length in zip(responses.token_ids, responses.lengths.tolist(), strict=True)]


class _Log(TrainerCallback):
    """A row an update, then perhaps a checkpoint. The trainer logs after the last step of an update."""

    def __init__(
        self, checkpoints: Checkpoints, reward: _Reward, roll_outs: RollOuts, norms: list[float], meter: FlopMeter, bar: Any
    ) -> None:
        self.checkpoints, self.reward, self.roll_outs, self.norms = checkpoints, reward, roll_outs, norms
        self.meter, self.bar = meter, bar
        self.read = RewardMeter(reward.task.proxy.reward)
        self.clock = Clock()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.clock.lap()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "train_runtime" in logs:  # the summary at the end
            return
        metrics = {name: value for name, value in logs.items() if name not in _LEFT_OUT and value is not None}
        metrics["lr"] = metrics.pop("learning_rate")
        metrics["objective/scores"] = metrics["reward"]
        if "kl" in metrics:
            metrics["objective/kl"] = metrics["kl"] * metrics["completions/mean_length"]
        metrics.update(self.roll_outs.facts())
        log = self.checkpoints.log
        spent = self.roll_outs.spent(), self.read.lap(), self.meter.lap()
        log.append(update_row(len(log) + 1, metrics, self.reward.last, self.norms, *spent, self.clock))
        warn(log)
        self.bar.update()
        self.bar.set_postfix(reward=f"{metrics['reward']:.2f}", kl=f"{metrics.get('objective/kl', float('nan')):.1f}")
        self.checkpoints.keep()


class _Reward:
    """The proxy reward as these trainers call it."""

    __name__ = "proxy"

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        self.last: np.ndarray = np.zeros(0)

    def __call__(self, prompts: list[list[int]], completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.last = text_rewards(self.task, prompts, completion_ids)
        return self.last.tolist()


def settings(task: TrainingTask) -> GroupRelativeConfig:
    """The task's settings, known to be of this kind."""
    assert isinstance(task.config, GroupRelativeConfig)
    return task.config


def train_groups(task: TrainingTask, resume: Path | None, trainer_class: Any, arguments_class: Any, **own: Any) -> None:
    """Train with one of the two trainers, from a checkpoint or from the base policy.

    Args:
        task: what is trained.
        resume: the checkpoint to go on from.
        trainer_class: `Hooks` before TRL's trainer.
        arguments_class: TRL's settings for it.
        **own: the settings that only this trainer has.
    """
    config, tokenizer, device = settings(task), task.policy.tokenizer, task.policy.model.device
    log = read_log(resume) if resume else []
    first = len(log) + 1
    steps = config.num_iterations * config.num_mini_batches

    source = resume or Path(task.policy.folder)
    policy = prepared(type(task.policy.model).from_pretrained(source, dtype=torch.float32), tokenizer, device)
    reference = copy.deepcopy(task.policy.model)
    for model in (policy, reference):
        model.register_forward_pre_hook(_positions, with_kwargs=True)
    trained = list(policy.parameters())
    optimizer = adam(config, policy)
    if resume:
        restore(resume, optimizer)
    scheduler = scheduled(optimizer, config, first, steps)
    roll_outs, reward = RollOuts(policy, reference, task, first), _Reward(task)
    bar = tqdm(total=config.updates, initial=first - 1, desc=f"training {config.name}", unit="update", disable=None)
    norms = clipped(optimizer, trained, config.max_grad_norm)
    meter = FlopMeter([policy, reference, *models_of(task.proxy.reward)])
    with tempfile.TemporaryDirectory() as scratch, bar, contextlib.redirect_stdout(io.StringIO()):
        arguments = arguments_class(**_arguments(task, steps * (config.updates - first + 1), scratch), **own)
        trainer = trainer_class(
            model=policy,
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": [list(task.prompts[0])]}),
            processing_class=tokenizer,
            callbacks=[_Log(Checkpoints(task, policy, optimizer, log), reward, roll_outs, norms, meter, bar)],
            optimizers=(optimizer, scheduler),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.beta = config.kl_coef
        trainer.ref_model = reference if config.kl_coef else None
        trainer.roll_outs = roll_outs
        trainer.batches = [
            [{"prompt": list(task.prompts[p])} for p in rows for _ in range(config.num_generations)]
            for update in range(first, config.updates + 1)
            for rows in [batch(task.seed, update, len(task.prompts), config.batch_size // config.num_generations)] * steps
        ]
        with meter:
            trainer.train()


def _arguments(task: TrainingTask, steps: int, folder: str) -> dict[str, Any]:
    """TRL's settings for this many optimizer steps, as far as both trainers have them."""
    config = settings(task)
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size // config.num_mini_batches,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": config.num_mini_batches,
        "num_iterations": config.num_iterations,
        "num_generations": config.num_generations,
        "learning_rate": config.learning_rate,
        "epsilon": config.cliprange,
        "beta": 0.0,  # with another one the trainer would load a reference of its own
        "max_grad_norm": 0.0,  # a hook on the optimizer clips
        "max_completion_length": task.sampling.max_new_tokens,
        "temperature": task.sampling.temperature,
        "disable_dropout": True,
        "shuffle_dataset": False,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": task.policy.model.device.type == "cpu",
        "logging_strategy": "steps",
        "logging_steps": config.num_iterations * config.num_mini_batches,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": task.seed,
    }


def _positions(_model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Counts positions from the first real token, where the caller has not done it."""
    mask = kwargs.get("attention_mask")
    if mask is None or kwargs.get("position_ids") is not None:
        return args, kwargs
    return args, {**kwargs, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
