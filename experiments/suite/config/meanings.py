"""Read what every configuration key means from the docstrings under a dataclass's fields.

The reference page and `--help` show the same text. Nothing heavy is imported: neither torch nor any implementation.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, get_args, get_type_hints

import yaml
from omegaconf import MISSING


class Key(NamedTuple):
    """A configuration key as pages show it.

    Attributes:
        type: as annotated, `int` or `str | None`.
        default: as YAML writes it; "" where a file of the group, or the user, must set it.
        meaning: the docstring under the field, on one line.
    """

    type: str
    default: str
    meaning: str


def key_meanings(kind: type, prefix: str = "") -> dict[str, Key]:
    """Return every key of a dataclass, those of nested dataclasses after a dot, in the order of the fields.

    Args:
        kind: a dataclass whose source can be read.
        prefix: set before every key, with its dot.
    """
    told, hints = _meanings(kind), get_type_hints(kind)
    found: dict[str, Key] = {}
    for field in dataclasses.fields(kind):
        nested = next(filter(dataclasses.is_dataclass, (hints[field.name], *get_args(hints[field.name]))), None)
        if isinstance(nested, type):
            found.update(key_meanings(nested, f"{prefix}{field.name}."))
        else:
            found[prefix + field.name] = Key(_annotation(field.type), _default(field), told.get(field.name, ""))
    return found


def help_text(keys: Mapping[str, Key]) -> str:
    """Return the meanings of keys for a terminal: a key per line, and its meaning wrapped beside it."""
    width = max(map(len, keys)) + 2
    lines = [
        textwrap.fill(key.meaning, 127, initial_indent=f"{name:<{width}}", subsequent_indent=" " * width)
        for name, key in keys.items()
    ]
    return "\n".join(lines)


def _meanings(kind: type) -> dict[str, str]:
    """Return field -> docstring; that of a subclass wins."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            found.update(_documented(base))
    return found


def _documented(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the fields that a class annotates itself, each with the string that follows it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    for field, after in pairwise(body):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(told))):
                yield name, " ".join(told.split())


def _annotation(annotation: Any) -> str:
    """Return an annotation as its module spells it, also where annotations are not kept as strings."""
    return annotation if isinstance(annotation, str) else str(annotation) if get_args(annotation) else annotation.__name__


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or value == MISSING:
        return ""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
