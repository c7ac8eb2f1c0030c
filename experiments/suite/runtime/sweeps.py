"""Sweeps on a command line: what is swept over twice."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException


def repeated(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with a sweep that has a value twice: two jobs would be one and the same, in one folder.

    Args:
        arguments: of the command line, without the command. What Hydra cannot read, it refuses itself.

    Returns:
        A line that names the key, its values and those that are there twice; None where there are none.
    """
    given, others = get_args_parser().parse_known_args(list(arguments))
    said = [*given.overrides, *(other for other in others if not other.startswith("-"))]  # the others: those behind a flag
    try:
        overrides = OverridesParser.create().parse_overrides(said)
    except HydraException:
        return None
    for override in overrides:
        values = _swept(override)
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            listed = f"a sweep without duplicates ({', '.join(twice)} is there twice)"
            return f"{override.key_or_group}={','.join(values)} is not allowed: must be {listed}"
    return None


def _swept(override: Override) -> list[str]:
    """The values of a sweep as Hydra reads them, so that 0.1 and 0.10 are one; empty where nothing is swept over."""
    if not override.is_sweep_override():
        return []
    return [str(value) for value in override.sweep_iterator(transformer=Transformer.identity)]
