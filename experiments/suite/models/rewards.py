"""Rewards that are Python functions of the user's: found by name, tried on a few texts before anything expensive begins."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bon.rewards import Reward, RewardError, checked_scores
from suite.runtime.errors import UserError


class FunctionReward:
    """A list of texts (prompt and response as one) to a float each.

    Attributes:
        label: its dotted name.
        digest: of the file that defines it, so that another version is never taken for this one; what that file imports is
            not looked at.
        model: a module without weights; a function costs no FLOPs.
    """

    def __init__(self, function: Reward, label: str) -> None:
        self._function = function
        self.label = label
        self.model = nn.Identity()
        self.digest = hashlib.sha256(f"{label}\n{_source(function)}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Sequence[float]:
        """Rewards [len(texts)]."""
        return self._function(list(texts))


def load_function(target: str, key: str) -> FunctionReward:
    """The function that a dotted name says, importable as from the working directory.

    Raises:
        UserError: there is none, or it is not a function.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: a folder here must not hide an installed package
    module, _, name = target.rpartition(".")
    if not module:
        raise UserError(f"{key}={target} is not allowed: must be module.function, a module importable from {Path.cwd()}")
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except AttributeError:
        raise UserError(f"{key}={target}: {module} has no {name}") from None
    except ModuleNotFoundError as error:
        raise UserError(f"{key}={target}: no module named {error.name}; modules are looked for from {Path.cwd()}") from None
    except Exception as error:  # the user's own code
        raise UserError(f"{key}={target}: importing {module} raised {type(error).__name__}: {error}") from None
    if not callable(function) or inspect.isclass(function):
        raise UserError(f"{key}={target}: not a function (a list of texts to a float each)")
    return FunctionReward(function, target)


def check_function(function: FunctionReward, texts: Sequence[str], key: str) -> None:
    """Try a function on a few texts, all at once and one alone.

    Raises:
        UserError: it raises, or does not return one finite number for each.
    """
    for some in (list(texts), list(texts)[:1]):
        try:
            checked_scores(function, some)
        except RewardError as error:
            raise UserError(f"{key}={function.label}: {error}") from None


def _source(function: Callable[..., Any]) -> str:
    try:
        return Path(inspect.getsourcefile(inspect.unwrap(function)) or "").read_text(encoding="utf-8")
    except (TypeError, OSError):  # built in
        return ""
