"""W&B: a run a job, all in one group. It never asks, never blocks for long, and goes offline when the network is dead."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from suite.config.baselines import TRAINERS
from suite.config.run import TrackingConfig
from suite.runtime.errors import one_line
from suite.tracking.keys import COSTS
from suite.tracking.protocol import Entry, Files, Histogram, Job, Picture, Table, Value

_log = logging.getLogger(__name__)
#: W&B's own chart of several lines from one table.
LINES = "wandb/lineseries/v0"


class WandbBackend:
    """Settings of W&B's runs.

    Attributes:
        mode: `online` or `offline`.
        wait: seconds to wait for the server when a run begins, and again when it ends.
    """

    def __init__(self, config: TrackingConfig, folder: Path, wait: float = 20.0) -> None:
        self.config, self.folder, self.wait = config, folder, wait
        self.mode = _mode(config)

    def open(self, job: Job) -> WandbMirror:
        """Begin the run, or go on with it; if the server is silent or refuses, all go on offline."""
        if self.mode == "online":
            try:
                return self._opened(job)
            except wandb.errors.AuthenticationError:
                raise
            except wandb.errors.Error as error:
                _log.warning("W&B does not take the run (%s); going on offline: %s", one_line(error), self.told_offline())
                self.mode = "offline"
                self.reset()  # its process still waits for the server, and holds the run's id
        return self._opened(job)

    def _opened(self, job: Job) -> WandbMirror:
        self.folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            id=job.identity,
            group=job.group,
            job_type=job.method,
            name=job.name,
            tags=job.tags,
            config=dict(job.config),
            mode=self.mode,  # type: ignore[arg-type]
            resume="allow",
            dir=self.folder,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, init_timeout=self.wait, finish_timeout=self.wait, console="off"),
        )
        for axis in ("n", "update"):
            run.define_metric(axis)
        for prefix, axis in (("bon", "n"), ("eval", "update"), *((method, "update") for method in TRAINERS)):
            run.define_metric(f"{prefix}/*", step_metric=axis)
        for name, key in COSTS.items():
            if key.axis:
                run.define_metric(f"cost/{name}", step_metric=key.axis)
        return WandbMirror(run)

    def told(self) -> str:
        """One line: where the mirror is, and how an offline one gets to the server."""
        if self.mode == "offline":
            return f"W&B offline (to upload: {self.told_offline()})"
        return f"W&B online, project {self.config.project}"

    def told_offline(self) -> str:
        """Say how an offline mirror gets to the server."""
        return f"wandb sync {self.folder}/wandb/offline-run-*"

    def reset(self) -> None:
        """Forget the process that serves W&B; the next run starts another."""
        with contextlib.suppress(Exception):
            wandb.teardown(exit_code=1)


class WandbMirror:
    """A W&B run."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.logged = int(run.step)  # of a run that goes on, the server's count; offline nobody knows, so all is logged

    def log(self, index: int, entry: Entry) -> None:
        """Log an entry as the history's step of the same number."""
        axis = {entry.axis: entry.at} if entry.axis else {}
        self.run.log({**axis, **{key: _native(value) for key, value in entry.values.items()}}, step=index)

    def warn(self, kind: str, text: str) -> None:
        """Send an alert, by which W&B writes to the run's owner."""
        self.run.alert(title=f"Training: {kind}", text=text, level="WARN")

    def keep(self, inputs: Sequence[Files], outputs: Sequence[Files]) -> None:
        """Log the outputs as artifacts; what they were made from is used where W&B can (online), and named in any case."""
        made_from = [files.name for files in inputs]
        if self.run.settings.mode != "offline":
            for files in inputs:
                self.run.use_artifact(_artifact(files, {}))
        for files in outputs:
            self.run.log_artifact(_artifact(files, {"made_from": made_from} if made_from else {}))

    def close(self, whole: bool) -> None:
        """End the run; of offline runs with one identity, only the one that holds everything is left."""
        folder = Path(self.run.dir).parent
        identity, offline = self.run.id, self.run.settings.mode == "offline"
        self.run.finish(exit_code=0 if whole else 1)
        if whole and offline:
            for earlier in folder.parent.glob(f"offline-run-*-{identity}"):
                if earlier.name != folder.name:
                    shutil.rmtree(earlier, ignore_errors=True)


def _mode(config: TrackingConfig) -> str:
    if os.environ.get("WANDB_MODE", "") == "offline":
        return "offline"
    if config.mode != "auto":
        return config.mode
    try:
        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except Exception as error:
        _log.warning("W&B cannot say whether there is a key (%s); going on offline", error)
        return "offline"


def _native(value: Value) -> Any:
    if isinstance(value, Histogram):
        return wandb.Histogram(np_histogram=(np.asarray(value.counts), np.asarray(value.edges)))
    if isinstance(value, Picture):
        return wandb.Image(str(value.path))
    if isinstance(value, Table):
        table = wandb.Table(columns=list(value.columns), data=[list(row) for row in value.rows])
        if value.chart is None:
            return table
        x, line, y, name = value.chart
        return wandb.plot_table(LINES, table, {"step": x, "lineKey": line, "lineVal": y}, {"title": name, "xname": x})
    return value


def _artifact(files: Files, metadata: Mapping[str, Any]) -> Any:
    artifact = wandb.Artifact(files.name, type=files.kind, metadata=dict(metadata))
    for name, path in files.paths.items():
        # Immutable: W&B reads the file where it is, and keeps no copy of it.
        artifact.add_file(str(path.resolve()), name=name, policy="immutable", skip_cache=True)
    return artifact
