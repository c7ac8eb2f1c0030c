"""Trackio: a local-first dashboard for people without an account; `trackio show --project best-of-n` opens it.

It has no custom charts and no histogram with an axis of its own: the frontier is a table, histograms stand at their entry.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import trackio
from trackio.sqlite_storage import SQLiteStorage

from suite.config.run import TrackingConfig
from suite.tracking.protocol import Entry, Files, Histogram, Job, Picture, Table, Value


class TrackioBackend:
    """The user's own Trackio folder (`TRACKIO_DIR`)."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config

    def open(self, job: Job) -> TrackioMirror:
        """Begin the run, or go on with it."""
        name = f"{job.name}-{job.identity[:6]}"  # Trackio knows a run by its name
        last = SQLiteStorage.get_max_step_for_run(self.config.project, name)
        config = {**job.config, "job_type": job.method, "tags": job.tags}
        with _quiet():
            run = trackio.init(
                self.config.project, name=name, group=job.group, config=config, resume="allow", embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        return TrackioMirror(run, 0 if last is None else last + 1)

    def told(self) -> str:
        """One line: how to look at it."""
        return f"Trackio (to look: trackio show --project {self.config.project})"

    def reset(self) -> None:
        """A failed run is left as it is; the next one does not know of it."""
        trackio.context_vars.current_run.set(None)


class TrackioMirror:
    """A Trackio run."""

    def __init__(self, run: Any, logged: int) -> None:
        self.run, self.logged = run, logged

    def log(self, index: int, entry: Entry) -> None:
        """Log an entry as the step of the same number; n and the update stand beside the values."""
        axis = {entry.axis: entry.at} if entry.axis else {}
        self.run.log({**axis, **{key: _native(value) for key, value in entry.values.items()}}, step=index)

    def warn(self, kind: str, text: str) -> None:
        """Send an alert."""
        with _quiet():
            self.run.alert(title=f"Training: {kind}", text=text, level=trackio.AlertLevel.WARN)

    def keep(self, inputs: Sequence[Files], outputs: Sequence[Files]) -> None:
        """Keep the outputs as artifacts, and say which ones they were made from."""
        with _quiet():
            for files in inputs:
                self.run.use_artifact(f"{files.name}:latest")
            for files in outputs:
                artifact = trackio.Artifact(files.name, type=files.kind)
                for name, path in files.paths.items():
                    artifact.add_file(str(path), name=name)
                self.run.log_artifact(artifact)

    def close(self, whole: bool) -> None:
        """Write out what is still in memory (Trackio waits 30 s at most)."""
        with _quiet():
            self.run.finish()
        trackio.context_vars.current_run.set(None)  # or Trackio finishes it again, and says so, when Python ends


def _native(value: Value) -> Any:
    if isinstance(value, Histogram):
        return trackio.Histogram(np_histogram=(list(value.counts), list(value.edges)))
    if isinstance(value, Picture):
        return trackio.Image(str(value.path))
    if isinstance(value, Table):
        return trackio.Table(columns=list(value.columns), data=[list(row) for row in value.rows])
    return value


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Trackio tells of every run on the terminal; the run's own output is enough."""
    return contextlib.redirect_stdout(io.StringIO())
