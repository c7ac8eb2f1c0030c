"""Every key of `experiments/tune.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import OmegaConf

from suite.config.baselines import PRICED
from suite.config.rules import Rule, refuse
from suite.config.run import RunConfig
from suite.runtime.errors import UserError

#: Trainers whose log holds a KL, which the search needs.
SEARCHABLE = ("ppo", "rloo", "grpo")


@dataclass
class TuneConfig(RunConfig):
    """Keys of `experiments/tune.py`: those of a comparison, of which it runs the training alone, and the search.

    Successive halving with one cut: every trial is trained once for `short_updates`, the best `survivors` with every seed for
    `baseline.updates`. Trials of one price compete; of other prices, and of other trainers, they do not.
    """

    trials: list[list[str]] = field(default_factory=lambda: [[]])
    """Each a list of `key=value` of the baseline."""
    prices: list[float] = field(default_factory=lambda: [0.6])
    """Reward paid for a nat, by which trials are ranked; it is `kl_coef` of PPO and RLOO. A search for each."""
    short_updates: int = 64
    """Updates of every trial in the first round, with the first seed; 0: no such round."""
    survivors: int = 4
    """Trials that are trained with every seed for `baseline.updates`."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of the second round."""
    optimum_prompts: int = 128
    """Training prompts of the pool that the optimum is estimated from."""

    def check(self) -> None:
        """As of a comparison; and every trial, before the first one runs.

        Raises:
            UserError: names the key, its value and what is allowed.
        """
        super().check()
        refuse(self._rules())
        for trial in self.trials:
            try:
                for updates in {self.short_updates or self.baseline.updates, self.baseline.updates}:
                    self.changed(trial, self.prices[0], updates, self.seeds[0]).check_base()
            except Exception as error:
                reason = " ".join(str(error).split())
                raise UserError(f"trials: {trial} is not allowed: {reason}") from None

    def _rules(self) -> list[Rule]:
        apart = {tuple(sorted(trial)) for trial in self.trials}
        return [
            (
                self.baseline.name in SEARCHABLE,
                "baseline",
                self.baseline.name,
                ", ".join(SEARCHABLE) + " (no other logs a KL)",
            ),
            (len(apart) == len(self.trials) >= 1, "trials", self.trials, "different from each other, and at least one"),
            (len(set(self.prices)) == len(self.prices) >= 1, "prices", self.prices, "different numbers, at least one"),
            (all(price > 0 for price in self.prices), "prices", self.prices, "greater than 0"),
            (self.short_updates >= 0, "short_updates", self.short_updates, "at least 0"),
            (self.survivors >= 1, "survivors", self.survivors, "at least 1"),
            (len(set(self.seeds)) == len(self.seeds) >= 1, "seeds", self.seeds, "different numbers, at least one"),
            (all(seed >= 0 for seed in self.seeds), "seeds", self.seeds, "at least 0"),
            (self.optimum_prompts >= 2, "optimum_prompts", self.optimum_prompts, "at least 2"),
        ]

    def check_base(self) -> None:
        """The checks of a comparison alone."""
        super().check()

    def changed(self, trial: Sequence[str], price: float, updates: int, seed: int) -> TuneConfig:
        """Return this configuration with a trial's settings of the baseline, which win over the price and the updates."""
        priced = [f"kl_coef={price}"] if self.baseline.name in PRICED else []
        changes = OmegaConf.from_dotlist([*priced, f"updates={updates}", *trial])
        baseline: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(self.baseline), changes))
        return replace(self, baseline=baseline, seed=seed)
