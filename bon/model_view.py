"""A model to sample from beside the caller's: its weights, but modes and options of its own.

Sampling wants dropout off, another attention, another `generation_config`, adapters off. Set on the caller's model, even for a
moment, another thread would see them, and an error or a signal might leave them behind. So what is sampled is a view: every
module copied without its tensors. Weights that change in place change in the view too.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

#: Attribute of a hook that does the same operations on tensors every time, and does not ask whose module it gets.
CAPTURABLE = "_bon_capturable"
_MARK = "_bon_view_of"
_CONTAINERS = (dict, OrderedDict, list, tuple, set)


def view_of(model: Any, adapters: bool = True, hooks: bool = True) -> Any:
    """Return a view of a transformers model: in evaluation mode, its `generation_config` empty; of a view, itself.

    Parameters and buffers are the model's own tensors. Forward hooks run, and see the caller's modules. Whatever else holds
    modules (bound methods, closures, lists, as accelerate and PEFT leave them) holds those of the view instead.

    Args:
        model: the caller's.
        adapters: whether those of PEFT take part, where the model has some.
        hooks: whether forward hooks run.

    Raises:
        ValueError: adapters are to be off, and are merged into the weights.
    """
    if _MARK in vars(model) and adapters and hooks:
        return model
    model = caller_of(model)
    modules = list(model.modules())
    seen = _Seen({id(module): object.__new__(type(module)) for module in modules})
    for module in modules:
        state = vars(seen.modules[id(module)])
        for name, value in vars(module).items():
            shared = name in ("_parameters", "_buffers") or name.endswith("hooks")
            state[name] = value.copy() if shared else seen(value)
        state["training"] = False
        for own in (state["_forward_hooks"], state["_forward_pre_hooks"]):
            if not hooks:
                own.clear()
            for key, hook in own.items():
                own[key] = hook if hasattr(hook, CAPTURABLE) else _Hook(hook, module)
    view = seen.modules[id(model)]
    vars(view)[_MARK] = model
    if "generation_config" in vars(view):
        view.generation_config = GenerationConfig()
    if not adapters:
        _switch_adapters_off(view)
    return view


def caller_of(model: Any) -> Any:
    """Return the model that a view is of; another model is its own."""
    while _MARK in vars(model):
        model = vars(model)[_MARK]
    return model


def has_adapters(model: Any) -> bool:
    """Whether some of the model's modules are layers of PEFT."""
    return any(hasattr(module, "_disable_adapters") for module in model.modules())


def _switch_adapters_off(view: Any) -> None:
    for module in view.modules():
        if not hasattr(module, "_disable_adapters"):
            continue
        if getattr(module, "merged", False):
            raise ValueError(
                "the adapter is merged into the weights, so the reference is not there any more: unmerge it "
                "(policy.unmerge_adapter()), or pass the reference model"
            )
        vars(module)["_disable_adapters"] = True  # PEFT's own switch also turns gradients off, for everybody


class _Hook:
    """A forward hook of the caller's module, for its copy in a view."""

    def __init__(self, hook: Any, module: Any) -> None:
        self.hook, self.module = hook, module

    def __call__(self, _: Any, *arguments: Any, **options: Any) -> Any:
        return self.hook(self.module, *arguments, **options)


class _Seen:
    """Values of a module's attributes as a view has them.

    Args:
        modules: id of each module -> its copy.
    """

    def __init__(self, modules: dict[int, Any]) -> None:
        self.modules = modules
        self._configs: dict[int, Any] = {}

    def __call__(self, value: Any, deep: bool = True) -> Any:
        kind = type(value)
        if value is None or kind in (int, float, bool, str):
            return value
        if id(value) in self.modules:
            return self.modules[id(value)]
        if kind in _CONTAINERS:
            return self._container(value) if deep else value
        if isinstance(value, PreTrainedConfig):
            return self._config(value)
        if kind is types.MethodType and id(value.__self__) in self.modules:
            return types.MethodType(value.__func__, self.modules[id(value.__self__)])
        if kind is functools.partial:
            arguments = [self(part, False) for part in value.args]
            bound = functools.partial(
                self(value.func, False), *arguments, **{key: self(part, False) for key, part in value.keywords.items()}
            )
            vars(bound).update(vars(value))
            return bound
        if kind is types.FunctionType and value.__closure__:
            return self._closure(value)
        return value

    def _container(self, value: Any) -> Any:
        if not value:
            return value.copy() if hasattr(value, "copy") else value
        if isinstance(value, dict):
            return type(value)((key, self(part, False)) for key, part in value.items())
        return type(value)(self(part, False) for part in value)

    def _closure(self, function: Any) -> Any:
        contents = [_content(cell) for cell in function.__closure__]
        seen = [self(content, False) if not isinstance(content, types.FunctionType) else content for content in contents]
        if all(one is other for one, other in zip(contents, seen, strict=True)):
            return function
        cells = tuple(
            cell if one is other else types.CellType(other)
            for cell, one, other in zip(function.__closure__, contents, seen, strict=True)
        )
        bound = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
        bound.__kwdefaults__ = function.__kwdefaults__
        vars(bound).update(vars(function))
        return bound

    def _config(self, config: Any) -> Any:
        if id(config) not in self._configs:
            own = self._configs[id(config)] = copy.copy(config)
            for name, value in vars(config).items():
                if isinstance(value, PreTrainedConfig):
                    vars(own)[name] = self._config(value)
        return self._configs[id(config)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
