"""Every key of `experiments/tune.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import OmegaConf

from suite.config.run import RunConfig
from suite.runtime.errors import UserError


@dataclass
class TuneConfig(RunConfig):
    """Keys of `experiments/tune.py`: those of a comparison, of which it runs the training alone, and the trials."""

    trials: list[list[str]] = field(default_factory=lambda: [[]])
    """Each a list of `key=value` of the baseline."""

    def check(self) -> None:
        """As of a comparison; and every trial, before the first one runs.

        Raises:
            UserError: names the key, its value and what is allowed.
        """
        super().check()
        for key, trial in [("trials", trial) for trial in self.trials]:
            try:
                self.changed(trial).check_base()
            except Exception as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{key}: {trial} is not allowed: {reason}") from None
        if len({tuple(sorted(trial)) for trial in self.trials}) < len(self.trials):
            raise UserError(f"trials={self.trials} is not allowed: must be different from each other")

    def check_base(self) -> None:
        """The checks of a comparison alone."""
        super().check()

    def changed(self, trial: Sequence[str]) -> TuneConfig:
        """This configuration with a trial's settings of the baseline."""
        merged = OmegaConf.merge(OmegaConf.structured(self.baseline), OmegaConf.from_dotlist(list(trial)))
        baseline: Any = OmegaConf.to_object(merged)
        return replace(self, baseline=baseline)
