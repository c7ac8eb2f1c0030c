"""The one place that talks to W&B. The files of a run are the truth; this is a mirror, and a dead mirror never ends a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.baselines import Training
from suite.evaluation import Row, select
from suite.schema import TrackingConfig

_log = logging.getLogger(__name__)
SAMPLE_COLUMNS = (
    "query",
    "base response",
    "base score",
    "best-of-n response",
    "best-of-n score",
    "tuned response",
    "tuned score",
)


@dataclass(frozen=True)
class Tracker:
    """Mirrors a comparison: one W&B run for each (method, seed), all in one group.

    Attributes:
        config: where to.
        mode: `online`, `offline` or `disabled`.
        folder: the run's folder in results/; W&B's files go there too.
        group: the comparison.
        settings: the resolved configuration.
    """

    config: TrackingConfig
    mode: str
    folder: Path
    group: str
    settings: Mapping[str, Any]

    def best_of_n(self, rows: Sequence[Row], seed: int, figures: Sequence[Path], samples: Sequence[Sequence[Any]]) -> None:
        """The best-of-n curves against n, the table of samples and the figures."""

        def log(run: Any, wandb: Any) -> None:
            run.define_metric("n")
            run.define_metric("bon/*", step_metric="n")
            curve = [row for row in rows if row.method in ("base", "best_of_n")]
            for n in sorted({row.n for row in curve}):
                run.log({"n": n, **_logged("bon", select(curve, n=n))})
            run.log({"samples": wandb.Table(columns=list(SAMPLE_COLUMNS), data=[list(row) for row in samples])})
            for figure in figures:
                run.log({f"figures/{figure.stem}": wandb.Image(str(figure))})
            last = max(row.n for row in curve)
            run.summary.update(_logged("final", select(curve, n=last)))

        self._mirror("best_of_n", seed, log)

    def tuned(self, rows: Sequence[Row], method: str, seed: int, training: Training) -> None:
        """A tuned policy: what its trainer logged for every update, and its evaluation."""

        def log(run: Any, wandb: Any) -> None:
            run.define_metric("update")
            for prefix in (method, "eval"):
                run.define_metric(f"{prefix}/*", step_metric="update")
            for entry in training.log:
                values = {f"{method}/{name}": value for name, value in entry.items() if isinstance(value, int | float)}
                histogram = entry["reward/histogram"]
                values[f"{method}/reward/histogram"] = wandb.Histogram(np_histogram=(histogram["counts"], histogram["edges"]))
                run.log({"update": entry["update"], **values})
            own = select(rows, method=method, n=1)
            steps = sorted({row.step for row in own if row.step is not None})
            for step in steps:
                run.log({"update": step, **_logged("eval", select(own, step=step))})
            run.summary.update(_logged("final", select(own, step=steps[-1])))

        self._mirror(method, seed, log)

    def _mirror(self, method: str, seed: int, log: Callable[[Any, Any], None]) -> None:
        if self.mode == "disabled":
            return
        try:
            import wandb

            run = wandb.init(
                project=self.config.project,
                entity=self.config.entity,
                group=self.group,
                job_type=method,
                name=f"{self.group}-{method}-seed{seed}",
                tags=[str(self.settings["policy"]["name"]), str(self.settings["task"]["name"])],
                config=dict(self.settings),
                mode=self.mode,  # type: ignore[arg-type]
                dir=self.folder,
                reinit="finish_previous",
                settings=wandb.Settings(silent=True, init_timeout=30, console="off"),
            )
            log(run, wandb)
            run.finish()
        except Exception as error:  # whatever is wrong with W&B, the comparison is done and on disk
            _log.warning(
                "W&B did not take %s (%s: %s); the files in %s are whole", method, type(error).__name__, error, self.folder
            )


def open_tracker(config: TrackingConfig, folder: Path, group: str, settings: Mapping[str, Any]) -> Tracker:
    """A tracker that never asks and never blocks: without a key it is offline."""
    return Tracker(config, _mode(config), folder, group, settings)


def describe(tracker: Tracker) -> str:
    """One line: where the mirror is, and how an offline one gets to the server."""
    if tracker.mode == "disabled":
        return "off"
    if tracker.mode == "offline":
        return f"offline (to upload: wandb sync {tracker.folder}/wandb/offline-run-*)"
    return f"online, project {tracker.config.project}, group {tracker.group}"


def _mode(config: TrackingConfig) -> str:
    if config.name == "none":
        return "disabled"
    forced = os.environ.get("WANDB_MODE", "")
    if forced in ("offline", "disabled"):
        return forced
    if config.mode != "auto":
        return config.mode
    try:
        import wandb

        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except Exception as error:
        _log.warning("W&B cannot say whether there is a key (%s); going on offline", error)
        return "offline"


def _logged(prefix: str, rows: Sequence[Row]) -> dict[str, float]:
    """Rows of one step as W&B keys: `<prefix>/<metric>`, with the interval's ends and the kind of KL behind it."""
    values: dict[str, float] = {}
    for row in rows:
        key = f"{prefix}/{row.metric}" + (f"_{row.kl_kind}" if row.kl_kind else "")
        values[key] = row.value
        if row.ci_low is not None and row.ci_high is not None:
            values[f"{key}_ci_low"], values[f"{key}_ci_high"] = row.ci_low, row.ci_high
    return values
