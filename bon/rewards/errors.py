"""The error of a reward that fails."""

from __future__ import annotations

from bon.candidates import Candidates


class RewardError(ValueError):
    """A reward raised, or returned something that is not one finite number for each text.

    Attributes:
        candidates: what had been drawn when it happened, None where nothing was.
    """

    candidates: Candidates | None = None


def shown(text: str, most: int = 80) -> str:
    """A text in a line, both ends of a long one: its beginning is the prompt, which many have in common."""
    return repr(text if len(text) <= most else f"{text[: most // 2 - 3]} ... {text[-most // 2 + 2 :]}")
