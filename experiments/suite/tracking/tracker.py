"""Mirrors a run at a backend, while it goes on and from its files. The files are the truth; a dead mirror never ends a run."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from suite.config.run import TrackingConfig
from suite.runtime.errors import UserError
from suite.tracking.jobs import read_jobs, training_job, update_entries
from suite.tracking.protocol import Backend, Job, Mirror
from suite.tracking.record import UpdateLog, begin, finish

_log = logging.getLogger(__name__)


class Tracker:
    """Keeps a run's record in its folder and mirrors it: every update at once, everything else when its file is there.

    Attributes:
        backend: where to; None: nowhere.
        folder: the run's folder in results/.
        config: the resolved configuration.
    """

    def __init__(self, backend: Backend | None, folder: Path, config: Mapping[str, Any]) -> None:
        self.backend, self.folder, self.config = backend, folder, config
        self._updates = UpdateLog(folder)
        self._live: tuple[Mirror, int] | None = None
        self._broken = False

    def __enter__(self) -> Tracker:
        begin(self.folder, self.config)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._live is not None:
            mirror, self._live = self._live[0], None
            try:
                mirror.close(whole=False)
            except Exception as failure:
                self._failed("the training", failure)

    def told(self) -> str:
        """One line: where the mirror is."""
        return "off" if self.backend is None else self.backend.told()

    def updated(self, log: Sequence[Mapping[str, Any]]) -> None:
        """The training's log has grown: keep the new rows, then show them."""
        self._updates.write(log)
        if self.backend is None or self._broken:
            return
        try:
            if self._live is None:
                mirror = self.backend.open(training_job(self.folder, self.config))
                self._live = mirror, mirror.logged
            mirror, logged = self._live
            for index, entry in enumerate(update_entries(self.config, log)):
                if index >= logged:
                    mirror.log(index, entry)
            self._live = mirror, max(logged, len(log))
        except Exception as failure:
            self._live, self._broken = None, True
            self._failed("the training", failure)

    def warned(self, warnings: Mapping[str, str]) -> None:
        """Alert of what went wrong in training (kind -> sentence), where the backend has alerts; the summary holds it too."""
        if self._live is None:
            return
        try:
            for kind, text in warnings.items():
                self._live[0].warn(kind, text)
        except Exception as failure:
            self._failed("an alert", failure)

    def finished(self, policies: Mapping[str, Path]) -> None:
        """Every file of the run is there (`policies`: the tuned policies' folders): show what is not shown yet."""
        finish(self.folder, policies)
        if self.backend is None:
            return
        trained = self.config["baseline"]["name"]
        for job in sorted(read_jobs(self.folder), key=lambda job: job.method != trained):  # the open one first
            try:
                mirror, logged = self._live or _opened(self.backend, job)
                self._live = None
                _complete(mirror, job, logged)
            except Exception as failure:
                self._failed(job.method, failure)

    def _failed(self, what: str, failure: Exception) -> None:
        assert self.backend is not None
        name, why = type(self.backend).__name__.removesuffix("Backend"), f"{type(failure).__name__}: {failure}"
        remedy = f"python experiments/dashboard.py --replay {self.folder}"
        _log.warning("%s did not take %s (%s); the run's files are whole, to log them: %s", name, what, why, remedy)
        self.backend.reset()


def replay(backend: Backend, folder: Path) -> dict[str, tuple[int, int]]:
    """Log what a backend does not have of a run, from the run's files; returns method -> entries logged now, and in all.

    Raises:
        UserError: the folder holds no run, or one that has nothing to log; or the backend does not take a job.
    """
    done = {}
    for job in read_jobs(folder):
        try:
            mirror, logged = _opened(backend, job)
            _complete(mirror, job, logged)
        except Exception as failure:  # whatever is wrong with the backend
            backend.reset()
            raise UserError(f"{backend.told()}: {job.method} was not taken: {' '.join(str(failure).split())}") from failure
        done[job.method] = (max(0, len(job.entries) - logged), len(job.entries))
    return done


def _opened(backend: Backend, job: Job) -> tuple[Mirror, int]:
    mirror = backend.open(job)
    return mirror, mirror.logged


def _complete(mirror: Mirror, job: Job, logged: int) -> None:
    for index, entry in enumerate(job.entries):
        if index >= logged:
            mirror.log(index, entry)
    mirror.keep(job.inputs, job.outputs)
    mirror.close(whole=True)


_EXTRAS = {"wandb": ("wandb", "suite"), "trackio": ("trackio", "tracking"), "tensorboard": ("tensorboard", "tracking")}


def open_backend(config: TrackingConfig, folder: Path) -> Backend | None:
    """The backend that `tracking` names, None for `none` (and where `WANDB_MODE=disabled` switches W&B off).

    Raises:
        UserError: its package is not installed.
    """
    if config.name == "none" or (config.name == "wandb" and os.environ.get("WANDB_MODE") == "disabled"):
        return None
    package, extra = _EXTRAS[config.name]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f'tracking={config.name}: {package} is not installed; run: pip install -e ".[{extra}]"')
    if config.name == "wandb":
        from suite.tracking.to_wandb import WandbBackend

        return WandbBackend(config, folder)
    if config.name == "trackio":
        from suite.tracking.to_trackio import TrackioBackend

        return TrackioBackend(config)
    from suite.tracking.to_tensorboard import TensorboardBackend

    return TensorboardBackend(folder)


def open_tracker(config: TrackingConfig, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """A tracker that never asks and never blocks: W&B without a key is offline.

    Raises:
        UserError: the backend's package is not installed.
    """
    return Tracker(open_backend(config, folder), folder, settings)
