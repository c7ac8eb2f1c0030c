"""Values from callers: numbers that are what they have to be, arrays of one's own, metadata that a file can hold."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Return a whole number as an int; 3.0 is one, 3.5, True and "3" are none.

    Raises:
        ValueError: it is none, or below `least`.
    """
    if isinstance(value, np.ndarray) or hasattr(value, "item"):
        value = value.item() if value.ndim == 0 else value
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def positive(name: str, value: Any) -> float:
    """Return a finite number above 0 as a float.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number > 0, got {value!r}") from None
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be finite and > 0, got {value}")
    return number


def owned(name: str, values: Any, kind: Any) -> NDArray[Any]:
    """Return an array that nobody writes to: the one that is given if that is such a one, and a copy otherwise.

    Raises:
        ValueError: whole numbers are asked for and others given.
    """
    array = np.asarray(values)
    if kind is np.int32 and array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must hold whole numbers, got {array.dtype}")
    base = array if array.base is None else array.base
    if array.dtype != kind or array.flags.writeable or not isinstance(base, np.ndarray) or base.flags.writeable:
        array = np.array(array, dtype=kind)
        array.flags.writeable = False
    return array


def json_values(value: Any, name: str) -> Any:
    """Return the value as JSON has it: NumPy's numbers as Python's, tuples as lists.

    Raises:
        ValueError: a value that JSON does not have; `name` says where it is.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_values(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name} is a {type(value).__name__}, which no file can hold: use numbers, texts, lists and dicts")
