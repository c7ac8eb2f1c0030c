"""Every key of `experiments/finetune.py` and `experiments/pretrain.py`: type, default, meaning; and what must hold."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from suite.config.rules import Rule, check_writable, refuse
from suite.config.run import PolicyConfig, TaskConfig
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY

PARTS = ("policy", "proxy", "gold")


@dataclass
class FinetuneConfig:
    """One fine-tuning."""

    part: str = "policy"
    """What is made: the `policy` of the comparison, or a classifier: its `proxy` or its `gold` reward."""
    output: str = "cache/models/smollm2_imdb"
    """The folder with a folder for each part."""
    device: str = "auto"
    """As in `experiments/run.py`."""
    seed: int = 0
    """Of the order of texts and of new weights."""
    steps: int = 2000
    """Optimizer steps."""
    batch_size: int = 16
    """Windows (of a classifier: crops of single reviews) in a step."""
    context: int = 256
    """Tokens in a window."""
    learning_rate: float = 1e-4
    """After the warm-up; it falls to zero in a straight line."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    precision: str = "auto"
    """Of matrix products: `float32`, `bfloat16`; `auto`: bfloat16 on a GPU that has it, else float32."""
    lora_rank: int = 0
    """Rank of the adapters that are trained in place of the weights, and merged into them at the end; 0: all weights."""
    layers: int = 6
    """Of a classifier: how many of the policy's first layers it keeps."""
    checkpoint_every: int = 100
    """Steps between checkpoints; a stopped command goes on from the last one."""
    held_out_windows: int = 256
    """Windows that perplexity is measured on, spread evenly over the held-out reviews."""
    held_out_crops: int = 2000
    """Crops that a classifier's accuracy is measured on."""
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)

    def check(self) -> None:
        """Everything that can be known to be wrong before a model is loaded.

        Raises:
            UserError: names the key, its value and what is allowed.
        """
        positive = ("steps", "batch_size", "warmup_steps", "layers", "checkpoint_every", "held_out_windows", "held_out_crops")
        rules: list[Rule] = [
            (self.part in PARTS, "part", self.part, "policy, proxy or gold"),
            (self.precision in ("auto", "float32", "bfloat16"), "precision", self.precision, "auto, float32 or bfloat16"),
            (self.seed >= 0, "seed", self.seed, "at least 0"),
            *((getattr(self, key) >= 1, key, getattr(self, key), "at least 1") for key in positive),
            (self.context >= 16, "context", self.context, "at least 16"),
            (self.learning_rate > 0, "learning_rate", self.learning_rate, "greater than 0"),
            (self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "greater than 0"),
            (self.lora_rank >= 0, "lora_rank", self.lora_rank, "at least 0 (0: all weights)"),
        ]
        refuse(rules)
        if self.lora_rank and importlib.util.find_spec("peft") is None:
            raise UserError(f'lora_rank={self.lora_rank}: peft is not installed; pip install -e ".[smollm2]", or lora_rank=0')
        check_writable("output", self.output)


@dataclass
class TrainingSettings:
    """One training run: `context` in tokens, peak learning rates (`matrix_`: Muon's)."""

    steps: int
    """Optimizer steps."""
    batch_size: int = 16
    """Texts per step."""
    context: int = 256
    """Tokens of each."""
    learning_rate: float = 2e-3
    """Of AdamW, at its peak."""
    matrix_learning_rate: float = 0.02
    """Of Muon, for matrices, at its peak."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises."""
    seed: int = 0
    """Of new weights and of the order of texts."""


@dataclass
class Architecture:
    """The shape of a GPT-2 trunk."""

    layers: int = 4
    """Blocks of the transformer."""
    width: int = 256
    """Size of a hidden state."""
    heads: int = 4
    """Attention heads of a block."""
    context: int = 256
    """Longest text, in tokens."""


@dataclass
class PretrainConfig:
    """Keys of `experiments/pretrain.py`."""

    parts: list[str] = field(default_factory=lambda: ["policy", "proxy", "gold"])
    """What to train: `policy`, `proxy`, `gold`."""
    output: str = str(REPOSITORY / "experiments/models/tiny")
    """Where the models are written."""
    vocab_size: int = 4096
    """Tokens of the vocabulary."""
    policy: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=2700))
    proxy: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=2000, batch_size=256, context=128, seed=2))
    gold: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(
            steps=2000, batch_size=256, context=128, learning_rate=1e-3, matrix_learning_rate=0.01, seed=1
        )
    )
    shape: Architecture = field(default_factory=Architecture)
    """Of the policy, and so of the gold reward, which starts from it."""
    proxy_shape: Architecture = field(default_factory=lambda: Architecture(width=320, heads=5))
    teachers: str = "cache/models/smollm2_imdb"
    """The folder with the classifiers `proxy` and `gold` of `experiments/finetune.py`."""
    crops: int = 150_000
    """How many crops each teacher judges."""
    device: str = "auto"
    """As in `experiments/run.py`."""
