"""Every key of `experiments/benchmark.py`: type, default, meaning; and what must hold, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from suite.config.baselines import BaselineConfig
from suite.config.rules import Rule, check_writable, refuse
from suite.config.run import PolicyConfig, RewardConfig, RunConfig, SamplingConfig, TaskConfig, TrackingConfig

PARTS = ("sampler", "ppo")
RIVALS = ("generate", "bf16", "compiled", "continuous_batching", "trl")


@dataclass
class BenchmarkConfig:
    """One benchmark."""

    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """What to measure: `sampler`, `ppo`."""
    rivals: list[str] = field(default_factory=lambda: list(RIVALS))
    """Whom the sampler is compared with; `bf16` adds half-precision rows, `compiled` this sampler with `compile=True`,
    `trl` makes a virtual environment with pip."""
    num_prompts: int = 64
    """Prompts sampled in every round."""
    ns: list[int] = field(default_factory=lambda: [1, 8, 64])
    """Responses a prompt; a table of its own for each."""
    rounds: int = 3
    """Turns of every contender that count; one more before them warms up."""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    """Prompts in one call of transformers' `generate`: all are tried, the fastest is its row."""
    updates: int = 5
    """PPO updates a round; the first is not counted."""
    output: str = "results/benchmark"
    """Where the table is written."""
    cache: str = "cache"
    """Where the virtual environment with TRL 0.24 is kept."""
    task: TaskConfig = field(default_factory=TaskConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)

    def check(self) -> None:
        """Everything that can be known to be wrong before a model is loaded.

        Raises:
            UserError: names the key, its value and what is allowed.
        """
        rules: list[Rule] = [
            (bool(self.parts) and set(self.parts) <= set(PARTS), "parts", self.parts, f"one or more of {', '.join(PARTS)}"),
            (set(self.rivals) <= set(RIVALS), "rivals", self.rivals, f"some of {', '.join(RIVALS)}"),
            (self.num_prompts >= 1, "num_prompts", self.num_prompts, "at least 1"),
            (_counts(self.ns), "ns", self.ns, "one or more different numbers, each at least 1"),
            (self.rounds >= 1, "rounds", self.rounds, "at least 1"),
            (_counts(self.batch_sizes), "batch_sizes", self.batch_sizes, "one or more different numbers, each at least 1"),
            (self.updates >= 2, "updates", self.updates, "at least 2 (the first is not counted)"),
            ("ppo" not in self.parts or self.baseline.name == "ppo", "parts", self.parts, "[sampler] without baseline=ppo"),
        ]
        refuse(rules)
        check_writable("output", self.output)
        # What both commands have in common has one set of rules.
        RunConfig(
            n=1,
            results=self.output,
            cache=self.cache,
            task=self.task,
            policy=self.policy,
            reward=self.reward,
            sampling=self.sampling,
            baseline=self.baseline,
            tracking=TrackingConfig(name="none"),
        ).check()


def _counts(numbers: list[int]) -> bool:
    return bool(numbers) and min(numbers) >= 1 and len(set(numbers)) == len(numbers)
