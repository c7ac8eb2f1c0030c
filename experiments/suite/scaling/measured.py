"""Measurements of sampling and of stored pools: the records that the tables are written from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stored:
    """The size of shards of 32 prompts."""

    tokens: float
    """Mean length of a response."""
    bytes: float
    """Of one candidate."""


@dataclass(frozen=True)
class Run:
    """Sampling on Ray actors of one thread each, once they are warm."""

    n: int
    processes: int
    candidates_per_second: float
    """Of all actors together, by the clock on the wall."""
    core_seconds: float
    """Of the actor's core for one candidate: what others do on that core is not in it."""
    flops_per_candidate: float


@dataclass(frozen=True)
class Measured:
    """Measurements, and how busy the machine was with other things before (load average over a minute)."""

    stored: list[Stored]
    runs: list[Run]
    load: float

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Measured:
        """From a file."""
        return cls([Stored(**one) for one in told["stored"]], [Run(**one) for one in told["runs"]], told["load"])
