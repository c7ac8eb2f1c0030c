"""Every key of `baseline`: a class of settings for each trainer, so that a key which a trainer does not read is refused."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING

from suite.config.rules import Rule

#: Trainers whose `kl_coef` is the price of a nat in reward; GRPO's is on a scale of its own.
PRICED = ("ppo", "rloo")
#: Keys that say how a policy is evaluated and kept, not how it is trained.
EVALUATION_KEYS = ("num_candidates", "checkpoint_candidates", "evaluate_every", "resumable", "line_steps")
#: Keys that change nothing at this value. There they are left out of what names a training: earlier ones do not know them.
OFF: dict[str, Any] = {"ema_decay": 0.0, "line_steps": [], "choice": "best"}
#: Where PPO's critic may start.
CRITICS = ("auto", "reward", "frozen", "own", "shared")
#: How a learning rate goes on after its peak.
SCHEDULES = ("linear", "cosine", "constant")


@dataclass
class BaselineConfig:
    """What every baseline has; alone it is `baseline=none`, which trains nothing."""

    name: str = MISSING
    """Of the baseline; it must be that of the chosen file."""
    updates: int = 32
    """Updates of the training."""
    batch_size: int = 64
    """Responses an update (of PPO: one for each prompt)."""
    checkpoint_every: int = 8
    """Updates between the checkpoints that are kept and evaluated."""
    num_candidates: int = 16
    """Candidates drawn from the final policy for every prompt (at least n)."""
    checkpoint_candidates: int = 2
    """Candidates drawn from every earlier checkpoint."""
    evaluate_every: int = 1
    """Evaluate every k-th checkpoint, counting back from the last."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        own = [name for name, kind in BASELINES.items() if kind is type(self)]
        at_least_1 = ("updates", "checkpoint_every", "num_candidates", "checkpoint_candidates", "evaluate_every")
        return [
            (self.name in own, "baseline.name", self.name, f"{own[0]} (another baseline: {self._others()})"),
            (self.batch_size >= 2, "baseline.batch_size", self.batch_size, "at least 2"),
            *((getattr(self, key) >= 1, f"baseline.{key}", getattr(self, key), "at least 1") for key in at_least_1),
        ]

    def _others(self) -> str:
        return ", ".join(f"baseline={name}" for name, kind in BASELINES.items() if kind is not type(self))

    @property
    def prompts_needed(self) -> tuple[str, int, int]:
        """The key that decides how many training prompts it takes at least, its value, and that number."""
        return "baseline.batch_size", self.batch_size, 0

    def told(self) -> str:
        """The settings that matter most, for the announcement of a run."""
        return f"{self.updates} updates of {self.batch_size} responses"


@dataclass
class TrainedConfig(BaselineConfig):
    """What every trained baseline has."""

    learning_rate: float = 3e-4
    """The peak, reached after `warmup_updates`."""
    warmup_updates: int = 0
    """Updates over which the learning rate rises to its peak in a straight line; at most half of all."""
    schedule: str = "linear"
    """How the learning rate goes on after the peak: `linear` or `cosine`, to zero after the last update; `constant`."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment, per step."""
    adam_beta2: float = 0.999
    """Decay of its second moment, per step."""
    adam_epsilon: float = 1e-8
    """Added to the denominator of its steps."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: str = "auto"
    """Of matrix products in training: `float32`, `bfloat16`; `auto`: bfloat16 on a GPU that has it, else float32."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the policy over its updates, from the base policy on, and evaluate it beside the
    policy; 0: keep none."""
    line_steps: list[float] = field(default_factory=list)
    """Also evaluate the weights base + step x (trained - base) of the final policy for each of these steps: a frontier from
    one training, between the two below 1 and beyond the trained one above."""
    resumable: bool = True
    """Checkpoints hold optimizer and critic too, up to five times the policy's size, and a stopped training goes on from the
    last one; otherwise it begins anew."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            *super().rules(),
            (self.learning_rate > 0, "baseline.learning_rate", self.learning_rate, "greater than 0"),
            (
                self.warmup_updates >= 0,
                "baseline.warmup_updates",
                self.warmup_updates,
                "at least 0",
            ),
            (self.schedule in SCHEDULES, "baseline.schedule", self.schedule, ", ".join(SCHEDULES)),
            (0 <= self.adam_beta1 < 1, "baseline.adam_beta1", self.adam_beta1, "at least 0 and less than 1"),
            (0 <= self.adam_beta2 < 1, "baseline.adam_beta2", self.adam_beta2, "at least 0 and less than 1"),
            (self.adam_epsilon > 0, "baseline.adam_epsilon", self.adam_epsilon, "greater than 0"),
            (self.max_grad_norm > 0, "baseline.max_grad_norm", self.max_grad_norm, "greater than 0"),
            (0 <= self.ema_decay < 1, "baseline.ema_decay", self.ema_decay, "at least 0 and less than 1"),
            (
                len(set(self.line_steps)) == len(self.line_steps)
                and all(step > 0 and step != 1 and math.isfinite(step) for step in self.line_steps),
                "baseline.line_steps",
                list(self.line_steps),
                "different numbers greater than 0; 0 is the base policy and 1 the trained one",
            ),
            (
                self.precision in ("auto", "float32", "bfloat16"),
                "baseline.precision",
                self.precision,
                "auto, float32 or bfloat16",
            ),
        ]

    @property
    def prompts_needed(self) -> tuple[str, int, int]:
        """The key that decides how many training prompts it takes at least, its value, and that number."""
        return "baseline.batch_size", self.batch_size, self.batch_size


@dataclass
class RLConfig(TrainedConfig):
    """What trainers on their own roll-outs have; names as in TRL's PPOConfig where it has them."""

    num_mini_batches: int = 1
    """Optimizer steps in a pass over an update's responses."""
    kl_coef: float = 0.2
    """Reward, in logits, paid for a nat of KL."""
    cliprange: float = 0.2
    """Probability ratios are clipped to 1 plus or minus this."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            *super().rules(),
            (
                self.num_mini_batches >= 1 and self.batch_size % max(self.num_mini_batches, 1) == 0,
                "baseline.num_mini_batches",
                self.num_mini_batches,
                f"a divisor of baseline.batch_size={self.batch_size}",
            ),
            (self.kl_coef >= 0, "baseline.kl_coef", self.kl_coef, "at least 0"),
            (self.cliprange > 0, "baseline.cliprange", self.cliprange, "greater than 0"),
        ]

    def told(self) -> str:
        """The settings that matter most, for the announcement of a run."""
        return f"{super().told()}, kl_coef {self.kl_coef}, learning rate {self.learning_rate}"


@dataclass
class PPOConfig(RLConfig):
    """Of `baseline=ppo`. The defaults are the best trial of the search in `results/tuning/`."""

    name: str = "ppo"
    learning_rate: float = 2e-4
    """The peak, reached after `warmup_updates`."""
    warmup_updates: int = 4
    """Updates over which the learning rate rises to its peak in a straight line; at most half of all."""
    num_mini_batches: int = 2
    """Optimizer steps in a pass over an update's responses."""
    num_ppo_epochs: int = 1
    """Passes over an update's responses."""
    vf_coef: float = 0.1
    """Weight of the critic's loss."""
    gamma: float = 1.0
    """Discount of later rewards; 1: none."""
    lam: float | None = None
    """Of generalized advantage estimation; null: 0.7 with a critic that starts from the proxy, which foretells rewards from
    the first update on, 0.95 with any other."""
    lam_end: float | None = None
    """`lam` at the last update, reached in a straight line; null: it stays. Short-sighted advantages learn quickly and end
    biased by the critic's errors; at 1 they have no bias."""
    whiten_rewards: bool = False
    """Bring rewards to mean 0 and variance 1 before advantages are computed."""
    critic: str = "auto"
    """Where the critic starts: `reward`, from the proxy's own weights; `frozen`, the same, and it is never trained, which
    saves 40% of an update's FLOPs; `own`, from a copy of the policy with a new head; `shared`, as a head on the policy's
    trunk: half the work, and it learns less well; `auto`: `frozen` where the proxy reads the policy's tokens, else `own`."""
    critic_learning_rate: float = 0.0
    """The critic's peak learning rate, on the same schedule; 0: `learning_rate`."""
    critic_warmup_updates: int = 0
    """First updates that train the critic alone; the policy stands still, and its own schedule begins after them."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            *super().rules(),
            (self.num_ppo_epochs >= 1, "baseline.num_ppo_epochs", self.num_ppo_epochs, "at least 1"),
            (self.critic in CRITICS, "baseline.critic", self.critic, ", ".join(CRITICS)),
            (self.critic_learning_rate >= 0, "baseline.critic_learning_rate", self.critic_learning_rate, "at least 0"),
            (
                0 <= self.critic_warmup_updates < max(self.updates, 1),
                "baseline.critic_warmup_updates",
                self.critic_warmup_updates,
                f"at least 0 and less than baseline.updates={self.updates}",
            ),
            (self.lam is None or 0 <= self.lam <= 1, "baseline.lam", self.lam, "in [0, 1], or null"),
            (self.lam_end is None or 0 <= self.lam_end <= 1, "baseline.lam_end", self.lam_end, "in [0, 1], or null"),
            (0 <= self.gamma <= 1, "baseline.gamma", self.gamma, "in [0, 1]"),
        ]


@dataclass
class GroupRelativeConfig(RLConfig):
    """What RLOO and GRPO share: several responses to each prompt, each judged against the others.

    `batch_size` counts responses, so an update draws as many tokens as PPO's. `kl_coef` is TRL's `beta`, `cliprange` its
    `epsilon`.
    """

    num_generations: int = 4
    """Responses to each prompt of an update."""
    num_iterations: int = 1
    """Passes over the responses of an update."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            *super().rules(),
            (
                self.num_generations >= 2 and self.batch_size % max(self.num_generations, 1) == 0,
                "baseline.num_generations",
                self.num_generations,
                f"at least 2 and a divisor of baseline.batch_size={self.batch_size}",
            ),
            (self.num_iterations >= 1, "baseline.num_iterations", self.num_iterations, "at least 1"),
        ]

    @property
    def prompts_needed(self) -> tuple[str, int, int]:
        """The key that decides how many training prompts it takes at least, its value, and that number."""
        return "baseline.batch_size", self.batch_size, self.batch_size // max(self.num_generations, 1)

    def told(self) -> str:
        """The settings that matter most, for the announcement of a run."""
        return f"{super().told()}, {self.num_generations} to each prompt"


@dataclass
class RLOOConfig(GroupRelativeConfig):
    """Of `baseline=rloo`."""

    name: str = "rloo"
    normalize_advantages: bool = False
    """Divide the advantages of an update by their standard deviation."""


@dataclass
class GRPOConfig(GroupRelativeConfig):
    """Of `baseline=grpo`. Its `kl_coef` weighs KL per token against advantages in standard deviations: a scale of its own."""

    name: str = "grpo"
    scale_rewards: str = "group"
    """A reward's distance from its prompt's mean is divided by the deviation in its `group`, in the `batch`, or by `none`."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        scales = ("group", "batch", "none")
        return [
            *super().rules(),
            (self.scale_rewards in scales, "baseline.scale_rewards", self.scale_rewards, "group, batch or none"),
        ]


@dataclass
class BonSFTConfig(TrainedConfig):
    """Of `baseline=bon_sft`: fine-tuning on the best of `best_of` responses to each of `num_prompts` training prompts.

    With the defaults it draws as many responses as the other baselines do, 256 x 8 = 32 x 64.
    """

    name: str = "bon_sft"
    """Of the baseline."""
    best_of: int = 8
    """Responses drawn to each training prompt, of which one is learned."""
    choice: str = "best"
    """Which one: the `best`, or one at `random`: a control that says what fitting to the policy's own responses does."""
    num_prompts: int = 256
    """Training prompts, no more than the updates get to; `best_of` responses are drawn to each, once, from the base policy."""
    epochs: int = 4
    """Passes over the chosen responses."""
    updates: int = 0
    """Stop after so many updates, even within the epochs; 0: after the epochs."""
    batch_size: int = 32
    """Chosen responses an update."""

    def __post_init__(self) -> None:
        """Makes `updates` and `num_prompts` the numbers there will be."""
        if self.best_of >= 1 and self.batch_size >= 1 and self.num_prompts >= 1 and self.epochs >= 1:
            whole = math.ceil(self.epochs * self.num_prompts / self.batch_size)
            self.updates = min(self.updates, whole) if self.updates else whole
            if self.updates > 0:
                self.num_prompts = min(self.num_prompts, self.updates * self.batch_size)

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        return [
            (self.best_of >= 1, "baseline.best_of", self.best_of, "at least 1"),
            (self.choice in ("best", "random"), "baseline.choice", self.choice, "best or random"),
            (self.num_prompts >= 1, "baseline.num_prompts", self.num_prompts, "at least 1"),
            (self.epochs >= 1, "baseline.epochs", self.epochs, "at least 1"),
            *super().rules(),
        ]

    @property
    def prompts_needed(self) -> tuple[str, int, int]:
        """The key that decides how many training prompts it takes at least, its value, and that number."""
        return "baseline.num_prompts", self.num_prompts, self.num_prompts

    def told(self) -> str:
        """The settings that matter most, for the announcement of a run."""
        return (
            f"{'the best' if self.choice == 'best' else 'a random one'} of {self.best_of} for {self.num_prompts} prompts, "
            f"{self.updates} updates of {self.batch_size}, "
            f"learning rate {self.learning_rate}"
        )


@dataclass
class PublishedConfig(BaselineConfig):
    """Of `baseline=published`: a tuned policy that is loaded, not trained."""

    name: str = "published"
    """Of the baseline."""
    path: str = "lvwerra/gpt2-imdb-pos-v2"
    """A folder or a name of the hub; tuned from the run's own policy."""
    revision: str | None = None
    """Commit on the hub; the newest unless given."""
    updates: int = 1
    """The step at which the policy stands in tables and figures."""

    def told(self) -> str:
        """Which one, for the announcement of a run."""
        return self.path


BASELINES: dict[str, type[BaselineConfig]] = {
    "none": BaselineConfig,
    "ppo": PPOConfig,
    "rloo": RLOOConfig,
    "grpo": GRPOConfig,
    "bon_sft": BonSFTConfig,
    "published": PublishedConfig,
}
#: Baselines that train, and the module that does; it is imported when it is asked for.
TRAINERS = {name: f"suite.baselines.{name}" for name in BASELINES if name != "none"}


def trained_baselines() -> list[str]:
    """Return the baselines whose policies are trained here."""
    return [name for name in TRAINERS if name != "published"]


def trained_by(config: BaselineConfig) -> dict[str, Any]:
    """Return the settings that a training's result depends on, its precision aside; they name its folder."""
    return {key: value for key, value in switched_on(config).items() if key not in (*EVALUATION_KEYS, "precision")}


def switched_on(config: BaselineConfig) -> dict[str, Any]:
    """Return all settings but those that are off."""
    return {key: value for key, value in asdict(config).items() if key not in OFF or value != OFF[key]}
