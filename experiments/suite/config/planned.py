"""One entry of a study's plan: a baseline at one price of KL, with its seeds and the settings that were found for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from suite.config.baselines import BASELINES, trained_baselines
from suite.config.rules import Rule


@dataclass
class PlannedTraining:
    """A baseline, trained once with every seed."""

    baseline: str = "ppo"
    """Which: a choice of `conf/baseline`."""
    kl_coef: float | None = None
    """Price of a nat of KL; null: the baseline's own, and rows name no setting."""
    seeds: Any = 3
    """How many seeds, counted from 0, or a list of them."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Other keys of the baseline, such as `learning_rate: 5e-5`."""

    @property
    def seed_list(self) -> list[int]:
        """The seeds, one by one."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    @property
    def setting(self) -> str:
        """What the rows call it: `kl_coef=0.2`, or blank."""
        return "" if self.kl_coef is None else f"kl_coef={self.kl_coef:g}"

    @property
    def label(self) -> str:
        """The baseline with its setting: `ppo kl_coef=0.2`."""
        return f"{self.baseline} {self.setting}".strip()

    def run_overrides(self) -> list[str]:
        """Keys of `experiments/run.py` that make this training, as on its command line, without the seed."""
        price = {} if self.kl_coef is None else {"kl_coef": self.kl_coef}
        keys = {**price, **self.overrides}
        return [f"baseline={self.baseline}", *(f"baseline.{key}={_written(value)}" for key, value in keys.items())]

    def rules(self, key: str) -> list[Rule]:
        """What must hold of this entry, whose place in the configuration is `key`."""
        trained = trained_baselines()
        known = self.baseline in trained
        keys = [each.name for each in fields(BASELINES[self.baseline])] if known else []
        others = [name for name in keys if name not in ("name", "kl_coef")]
        strange = [name for name in self.overrides if name not in others]
        counted = isinstance(self.seeds, int) and not isinstance(self.seeds, bool)
        listed = not counted and isinstance(self.seeds, Sequence) and not isinstance(self.seeds, str)
        whole = counted or (listed and all(type(seed) is int and seed >= 0 for seed in self.seeds))
        seeds = self.seed_list if whole else []
        return [
            (known, f"{key}.baseline", self.baseline, f"one of {', '.join(trained)}"),
            (
                self.kl_coef is None or (known and "kl_coef" in keys and self.kl_coef >= 0),
                f"{key}.kl_coef",
                self.kl_coef,
                f"null or at least 0, and null where the baseline has no such key ({self.baseline})",
            ),
            (
                len(set(seeds)) == len(seeds) >= 2,
                f"{key}.seeds",
                self.seeds,
                "a number of at least 2, or a list of at least 2 numbers of at least 0 without duplicates",
            ),
            (not strange or not known, f"{key}.overrides", strange, f"keys of {self.baseline}: {', '.join(others)}"),
        ]


def plan_rules(key: str, plan: Sequence[PlannedTraining]) -> list[Rule]:
    """What must hold of a whole plan: entries, none of them twice, and each by itself."""
    labels = [entry.label for entry in plan]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    return [
        (len(plan) >= 1, key, labels, "a list of at least 1"),
        (not twice, key, labels, f"a list without duplicates ({', '.join(twice)} is there twice)"),
        *(rule for place, entry in enumerate(plan) for rule in entry.rules(f"{key}[{place}]")),
    ]


def upgraded_plan(section: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a frontier as they were stored before there was a plan, in today's words; others as they are.

    A list of coefficients with seeds for PPO, and a list of other baselines with seeds of their own, become a plan.

    >>> old = {"n": 8, "kl_coefs": [0.2], "seeds": [0, 1], "others": ["rloo"], "other_seeds": [0, 1]}
    >>> [entry["baseline"] for entry in upgraded_plan(old)["trainings"]]
    ['ppo', 'rloo']
    """
    old = ("kl_coefs", "seeds", "others", "other_seeds")
    if not all(key in section for key in old):
        return dict(section)
    swept = [{"baseline": "ppo", "kl_coef": kl_coef, "seeds": list(section["seeds"])} for kl_coef in section["kl_coefs"]]
    others = [{"baseline": other, "seeds": list(section["other_seeds"])} for other in section["others"]]
    kept = {key: value for key, value in section.items() if key not in old}
    return {**kept, "trainings": [*swept, *others], "optimum_prompts": 0, "optimum_candidates": 0}


def _written(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    return "null" if value is None else str(value)
