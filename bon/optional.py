"""The one package that the core can do without: what needs it asks for it here, when it is called."""

from __future__ import annotations

import importlib
from typing import Any


def scipy_part(part: str, use: str) -> Any:
    """A module of scipy, `stats` for instance.

    Args:
        part: its name within scipy.
        use: what it is needed for, in the plural; begins the message.

    Raises:
        ModuleNotFoundError: scipy is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(f"scipy.{part}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{use} need scipy: pip install scipy") from None
