"""Numbers as files keep them: without the last digits, which differ from one processor to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Sums in another order move the sixteenth digit; sampling moves the second or third.
SIGNIFICANT_DIGITS = 10


def rounded(value: Any) -> Any:
    """The same with every float in it, however deep in lists and mappings, at `SIGNIFICANT_DIGITS`."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
