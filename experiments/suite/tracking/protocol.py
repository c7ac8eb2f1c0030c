"""Interface of a tracking backend: it opens jobs, a job takes numbered entries. Nothing here imports a backend's library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Histogram:
    """Counts [B] between edges [B + 1]; counts need not be whole."""

    counts: Sequence[float]
    edges: Sequence[float]


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers. With `chart`, also lines: the columns of x, of the line's name and of y, and a title."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    chart: tuple[str, str, str, str] | None = None


@dataclass(frozen=True)
class Picture:
    """A figure, as a PNG file."""

    path: Path


Value = float | Histogram | Table | Picture


@dataclass(frozen=True)
class Entry:
    """Values that are logged at once.

    Attributes:
        values: key -> value, in the names of `suite.tracking.keys`.
        axis: "n", "update" or None for what there is once.
        at: where on the axis.
    """

    values: Mapping[str, Value]
    axis: str | None = None
    at: int | None = None


@dataclass(frozen=True)
class Files:
    """Files that belong together: an artifact, where the backend has such a thing. Their content never changes."""

    name: str
    kind: str
    paths: Mapping[str, Path]


@dataclass(frozen=True)
class Job:
    """One method of one comparison: a run, as the backends say.

    Attributes:
        group: the comparison.
        method: `best_of_n`, a baseline's name, `comparison` or `figures`.
        seed: of the comparison.
        identity: the same for the same job of the same comparison, in this sitting and in later ones.
        config: the resolved configuration.
        entries: what it logs, in order; more may come while it goes on.
        inputs: what it was made from, by other jobs.
        outputs: what it made.
    """

    group: str
    method: str
    seed: int
    identity: str
    config: Mapping[str, Any]
    entries: Sequence[Entry] = field(default_factory=list)
    inputs: Sequence[Files] = ()
    outputs: Sequence[Files] = ()

    @property
    def name(self) -> str:
        """Name that people read."""
        return f"{self.group}-{self.method}-seed{self.seed}"

    @property
    def tags(self) -> list[str]:
        """Policy and task."""
        return [str(self.config["policy"]["name"]), str(self.config["task"]["name"])]


class Mirror(Protocol):
    """A job that is open at a backend."""

    @property
    def logged(self) -> int:
        """Number of entries that the backend holds already, from the first on."""

    def log(self, index: int, entry: Entry) -> None:
        """Log the entry that has this place in the job."""

    def warn(self, kind: str, text: str) -> None:
        """Alert whoever watches the job: what is wrong, in a word, and in a sentence with the remedy."""

    def keep(self, inputs: Sequence[Files], outputs: Sequence[Files]) -> None:
        """Keep the job's files, where the backend keeps files."""

    def close(self, whole: bool) -> None:
        """Write everything out, within a bounded time; `whole` says that the job has come to its end."""


class Backend(Protocol):
    """Place where jobs are mirrored."""

    def open(self, job: Job) -> Mirror:
        """Begin the job, or go on with it."""

    def told(self) -> str:
        """One line: where the mirror is, and what to do with it."""

    def reset(self) -> None:
        """Called after a failure: leave nothing open that the next job would trip over."""
