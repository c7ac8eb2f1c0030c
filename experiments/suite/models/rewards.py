"""Rewards: sequence classifiers, and Python functions of the user's, tried on a few texts before anything expensive begins."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from bon import ClassifierReward
from bon.rewards import RemoteReward, Reward, RewardError, checked_scores, load_classifier
from suite.config.run import JudgeConfig
from suite.models.files import here, loaded, weights_digest
from suite.runtime.device import quick_products
from suite.runtime.errors import UserError
from suite.runtime.hub import commit_of

#: Padded tokens that a judge reads at once: a GPU is idle between the layers of fewer.
_JUDGED_AT_ONCE = {"cpu": 8192, "cuda": 65536}


class FunctionReward:
    """A function of a list of texts (prompt and response as one), or of what its arguments name (`bon.score_candidates`).

    Attributes:
        label: its dotted name.
        digest: of the file that defines it, so that another version is never taken for this one; what that file imports is
            not looked at.
        remote: how a coroutine function is called; None for another.
        model: a module without weights; a function costs no FLOPs.
    """

    def __init__(self, function: Reward, label: str) -> None:
        self.__wrapped__ = function  # its signature says what it reads
        self.remote = RemoteReward(function) if inspect.iscoroutinefunction(function) else None
        self.label = label
        self.model = nn.Identity()
        self.digest = hashlib.sha256(f"{label}\n{_source(function)}".encode()).hexdigest()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the function returns."""
        return self.__wrapped__(*arguments, **named)


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
    """Try a function on a few texts as responses to an empty prompt, all at once and one alone.

    Raises:
        UserError: it raises, or does not return one finite number for each.
    """
    for some in (list(texts), list(texts)[:1]):
        try:
            checked_scores(function, some, prompts=[""] * len(some), responses=some)
        except (RewardError, TypeError) as error:
            raise UserError(f"{key}={function.label}: {error}") from None


def _source(function: Callable[..., Any]) -> str:
    try:
        return Path(inspect.getsourcefile(inspect.unwrap(function)) or "").read_text(encoding="utf-8")
    except (TypeError, OSError):  # built in
        return ""


@dataclass(frozen=True, eq=False)
class Judge:
    """A reward with the hash of the classifier or the function behind it."""

    reward: ClassifierReward | FunctionReward
    digest: str
    folder: str | None = None

    @property
    def revision(self) -> str | None:
        """The commit on the hub that it came from, if it did."""
        return None if self.folder is None else commit_of(self.folder)

    @property
    def parameters(self) -> int:
        """Number of parameters of the classifier; a function has none."""
        return sum(parameter.numel() for parameter in self.reward.model.parameters())


class _Classifier:
    """The loader of classifiers that have been trained, as `loaded` calls it."""

    from_pretrained = staticmethod(load_classifier)


def load_judge(config: JudgeConfig, key: str, device: torch.device) -> Judge:
    """A reward from a sequence classifier or a Python function; on a GPU matrices are multiplied in TF32 from now on.

    Raises:
        UserError: files are missing or damaged, the hub cannot be reached, the label does not exist, or there is no such
            function.
    """
    if config._target_ is not None:
        function = load_function(config._target_, f"{key}._target_")
        return Judge(function, function.digest)
    local = here(config, key, "reward=tiny")
    digest = weights_digest(local.path, f"{key}.path={config.path}")
    tokenizer = loaded(AutoTokenizer, local.path, key)
    model = loaded(_Classifier, local.path, key).to(device)
    quick_products(device)
    try:
        reward = ClassifierReward(model, tokenizer, config.label, batch_tokens=_JUDGED_AT_ONCE.get(device.type, 8192))
        return Judge(reward, digest, local.path)
    except ValueError as error:
        raise UserError(f"{key}.label={config.label}: {error}") from None
