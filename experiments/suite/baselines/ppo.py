"""PPO by TRL (`trl.experimental.ppo`), which is the only thing in this project that knows how that trainer works.

What stands between TRL's trainer and an honest, fast, repeatable baseline, each measured or read in TRL 1.12:

- the reward is any callable on text: a module that decodes, behind the two attributes `get_reward` asks for;
- roll-outs come from the suite's own token loop, at the temperature and length of the evaluation;
- prompts of update u, its roll-outs and its minibatches depend on (seed, u) alone, so runs repeat and can go on in the middle;
- `max_grad_norm` is ignored by the trainer: a hook on the optimizer clips;
- the critic starts from the proxy reward's own weights where that reads the policy's tokens, and is trained at a rate of its
  own, at first alone if so configured; it can also be a head on the policy's trunk, whose hidden states the policy reuses;
- `lam` can change over a training: the trainer reads it in every update, and the adapter sets it;
- two `gc.collect()` an update walk over everything that was ever imported: it is frozen first.

Of several processes (`suite.runtime.distributed`) each has its share of the batch, and their gradients are averaged (DDP). The
trainer whitens advantages, and averages losses over tokens, within a process: with a smaller share both are of fewer
responses, so the number of processes is part of what determines the result. Roll-outs are the same for any number until the
weights differ.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PrinterCallback

from suite.baselines.checkpoints import Checkpoints, read_log, restore
from suite.baselines.health import warn
from suite.baselines.interface import Training, TrainingTask
from suite.baselines.rollouts import RollOuts
from suite.baselines.trl_adapters import Critic, TextReward, critic_kind
from suite.baselines.updates import Clock, adam, batch, clipped, own_randomness, resumable, scheduled, update_row
from suite.config import baselines as schema
from suite.models.flops import FlopMeter, RewardMeter, models_of
from suite.models.policies import prepared
from suite.runtime import distributed

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


#: First `lam` by the critic's kind: one that foretells rewards from the first update on needs to look less far.
_FORESIGHT = {"reward": 0.7, "frozen": 0.7}


def foresight(config: schema.PPOConfig, critic: str, update: int) -> float:
    """Return the `lam` of an update, counted from 1: in a straight line from the first update's to `lam_end`."""
    first = _FORESIGHT.get(critic, 0.95) if config.lam is None else config.lam
    last = first if config.lam_end is None else config.lam_end
    return first + (last - first) * (update - 1) / max(config.updates - 1, 1)


def train(task: TrainingTask) -> Training:
    """Train a copy of the policy with TRL's PPO, from the newest checkpoint in `task.folder` on."""
    return resumable(task, _train)


def _train(task: TrainingTask, resume: Path | None) -> None:
    from datasets import Dataset
    from trl.experimental.ppo import PPOTrainer

    config, tokenizer, device = _settings(task), task.policy.tokenizer, task.policy.model.device
    log = read_log(resume) if resume else []
    first = len(log) + 1
    width = max(map(len, task.prompts))
    padded = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + list(ids) for ids in task.prompts])

    source = resume or Path(task.policy.folder)
    policy = prepared(type(task.policy.model).from_pretrained(source, dtype=torch.float32), tokenizer, device)
    reference = copy.deepcopy(task.policy.model)
    kind = critic_kind(task, config.critic)
    critic: Any = Critic(policy, kind, task.proxy.reward).to(device)
    trained = list(dict.fromkeys([*policy.parameters(), *critic.parameters()]))
    optimizer = adam(config, policy, critic, config.critic_learning_rate or config.learning_rate)
    if resume:
        restore(resume, optimizer, critic)
    scheduler = scheduled(optimizer, config, first, standing=config.critic_warmup_updates)
    norms = clipped(optimizer, trained, config.max_grad_norm)
    roll_outs = RollOuts(policy, reference, task, first)
    policy.generate = roll_outs
    reward: Any = TextReward(task, width)
    returns = Returns(critic)
    meter = FlopMeter([policy, reference, critic, *models_of(task.proxy.reward)])
    read = RewardMeter(task.proxy.reward)
    quiet = None if distributed.first() else True
    bar = tqdm(total=config.updates, initial=first - 1, desc="training ppo", unit="update", disable=quiet)

    class Trainer(PPOTrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            update = first + self.state.global_step - 1
            metrics = {**logs, **roll_outs.facts(), "val/explained_variance": returns.explained_variance()}
            metrics["val/num_eos_tokens"] = distributed.total(int(logs["val/num_eos_tokens"]))  # the others it gathers itself
            rewards = distributed.gathered(torch.from_numpy(reward.last)).numpy()
            spent = roll_outs.spent(), distributed.total(read.lap()), distributed.total(meter.lap())
            arguments: Any = self.args
            metrics["lam"], arguments.lam = arguments.lam, foresight(config, kind, update + 1)  # TRL reads it in every update
            log.append(update_row(update, metrics, rewards, norms, *spent, clock))
            warn(log)
            bar.update()
            bar.set_postfix(reward=f"{logs['objective/scores']:.2f}", kl=f"{logs['objective/kl']:.1f}")

    with tempfile.TemporaryDirectory() as scratch:
        trainer: Any = Trainer(
            args=_arguments(task, config.updates - first + 1, scratch, foresight(config, kind, first)),
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=critic,
            train_dataset=Dataset.from_dict({"input_ids": padded[: config.batch_size].tolist()}),
            optimizers=(optimizer, scheduler),
            callbacks=[Checkpoints(task, policy, optimizer, log, critic)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.dataloader = [
            {
                "input_ids": padded[
                    batch(task.seed, update, len(padded), config.batch_size)[distributed.share(config.batch_size)]
                ]
            }
            for update in range(first, config.updates + 1)
        ]
        gc.collect()
        gc.freeze()
        clock = Clock()
        try:
            with bar, meter, returns, contextlib.redirect_stdout(io.StringIO()):
                trainer.train()
        finally:
            gc.unfreeze()


class Returns:
    """Return how well the critic predicts the returns.

    TRL keeps both to itself, but what it whitens are the advantages of a batch: returns less values.
    """

    def __init__(self, critic: Any) -> None:
        self._values = self._advantages = self._inside = torch.zeros(0)
        critic.score.register_forward_hook(self._keep)

    def __enter__(self) -> None:
        from trl.experimental.ppo import ppo_trainer

        self._trainer, self._whiten = ppo_trainer, ppo_trainer.masked_whiten
        self._trainer.masked_whiten = self._seen

    def __exit__(self, *_: object) -> None:
        self._trainer.masked_whiten = self._whiten

    def _keep(self, _score: Any, _inputs: Any, values: torch.Tensor) -> None:
        if not torch.is_grad_enabled():  # of the roll-outs, before they are trained on
            self._values = values.squeeze(-1)

    def _seen(self, values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
        if shift_mean:  # rewards keep their mean where they are whitened
            self._advantages, self._inside = values, mask
        return self._whiten(values, mask, shift_mean)

    def explained_variance(self) -> float:
        """1 - Var(returns - values) / Var(returns) over the response tokens of the last roll-outs; 0 of constant returns."""
        steps = self._advantages.shape[1]
        advantages = self._advantages[self._inside]
        returns = advantages + self._values[:, -(steps + 1) : -1][self._inside]
        advantages, returns = distributed.gathered(advantages), distributed.gathered(returns)
        spread = returns.var().item()
        return 1.0 - advantages.var().item() / spread if spread > 0 else 0.0


def _arguments(task: TrainingTask, updates: int, folder: str, lam: float) -> Any:
    """Return TRL's settings for this many updates, the first with this `lam`."""
    from trl.experimental.ppo import PPOConfig

    config = _settings(task)
    return PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=config.batch_size // distributed.size(),
        gradient_accumulation_steps=1,
        num_mini_batches=config.num_mini_batches,
        total_episodes=updates * config.batch_size,
        local_rollout_forward_batch_size=config.batch_size // distributed.size(),
        num_ppo_epochs=config.num_ppo_epochs,
        learning_rate=config.learning_rate,
        kl_coef=config.kl_coef,
        cliprange=config.cliprange,
        vf_coef=config.vf_coef,
        gamma=config.gamma,
        lam=lam,
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


def _settings(task: TrainingTask) -> schema.PPOConfig:
    assert isinstance(task.config, schema.PPOConfig)
    return task.config


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
    clock = Clock()

    class Trainer(PPOTrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            seconds.append(clock.lap())

    with own_randomness(), tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(
            args=_arguments(task, task.config.updates, scratch, foresight(_settings(task), "own", 1)),
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
