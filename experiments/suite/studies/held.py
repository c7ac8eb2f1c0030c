"""One interval of one simulated study, beside the truth that it should hold."""

from __future__ import annotations

from dataclasses import dataclass

from bon.intervals import Difference, Interval


@dataclass(frozen=True)
class Held:
    """One interval of one study."""

    quantity: str
    method: str
    truth: float
    interval: Interval | Difference
