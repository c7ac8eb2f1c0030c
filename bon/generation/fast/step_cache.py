"""Decode steps of a fixed shape: captured once in a CUDA graph, then replayed for every token.

A step of a small model is a thousand kernels of a few microseconds, and Python launches them ten times as slowly as a GPU runs
them. A graph launches them all at once, but only over tensors that never move: keys and values in storage for the whole
response, a mask that is opened by one position a step, tokens and positions in buffers.

Such a step can also be compiled, which makes a fifth of the kernels of it: see `bon.generation.fast.static_step`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from transformers.cache_utils import DynamicLayer

from bon.generation.fast.static_prefill import FixedPrompts
from bon.generation.fast.static_step import FixedStep, Outcome
from bon.model_view import CAPTURABLE, caller_of

_Made = TypeVar("_Made")
_Hook = TypeVar("_Hook", bound=Callable[..., Any])
_log = logging.getLogger(__name__)
#: Attention takes a mask as it is where its rows are aligned to this many positions; otherwise it copies it in every layer.
_ALIGNMENT = 16
#: A capture costs about as much as three steps launched one by one: shorter responses are drawn without.
_FEWEST_STEPS = 8


class CapturedSteps:
    """Gives every batch its step; the last one captured is kept for further batches of its shape.

    Args:
        capture: whether a step is captured in a CUDA graph; otherwise the same step is launched operation by operation.
        compile: whether it is compiled before; where that fails, it is run as without.
    """

    def __init__(self, capture: bool = True, compile: bool = False) -> None:
        self.capture, self.compile = capture, compile
        self.lock = threading.RLock()
        self._step: FixedStep | None = None
        self._prompts: FixedPrompts | None = None
        self._last_prompts: tuple[int, ...] = ()
        self._model: tuple[Any, ...] = ()
        self._refused: set[tuple[Any, ...]] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return CapturedSteps, (self.capture, self.compile)  # a copy, here or in another process, makes its own

    def prefill(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> tuple[Any, Any] | None:
        """Cache and logits [B, V] of prompts [B, L], captured too once a shape comes twice in a row; None otherwise.

        Both hold until the next call, and the cache is not to be written to.
        """
        again, self._last_prompts = tuple(ids.shape) == self._last_prompts, tuple(ids.shape)
        step, identity = self._step, _identity(model)
        by_hand = self.compile and not self.capture  # without a graph there is nothing to gain
        if step is None or by_hand or not again or self._model != identity:
            self._prompts = None
            return None
        if self._prompts is None:

            def made() -> FixedPrompts:
                prompts = FixedPrompts(model, ids, mask, positions, step.dtype)
                if self.capture:
                    prompts.capture()
                return prompts

            self._prompts = self._possible("prompts", "captured", identity, made)
        return None if self._prompts is None else self._prompts(ids, mask, positions)

    def begin(
        self,
        model: Any,
        cache: Any,
        mask: torch.Tensor,
        positions: torch.Tensor,
        repeats: int,
        steps: int,
        tokens: torch.Tensor,
        going: torch.Tensor,
        uniforms: torch.Tensor | None,
    ) -> tuple[FixedStep, Outcome] | None:
        """The step for candidates of B prompts, and what comes after their first token.

        None where this model has to be run operation by operation.

        Args:
            model: a transformers causal LM.
            cache: its keys and values of the prompts, left as they are.
            mask: [B, L], 1 where a prompt has a token.
            positions: [B], of the last token of each prompt.
            repeats: K, candidates a prompt.
            steps: T, the most tokens of a response.
            tokens: [B * K], the first of each response.
            going: [B * K], whether a response goes on after it.
            uniforms: [B * K] in [0, 1), where the next token may be drawn from nothing but the logits.

        Raises:
            torch.OutOfMemoryError: the GPU is too small for B * K rows; nothing is kept then.
        """
        if steps < _FEWEST_STEPS or not _has_fixed_shape(model, cache):
            return None
        identity = _identity(model)
        rows, total = mask.shape[0] * repeats, -(-(mask.shape[1] + steps) // _ALIGNMENT) * _ALIGNMENT
        compiled = self.compile and ("step", "compiled", *identity) not in self._refused
        inputs = (tokens, going, uniforms)
        draws = compiled and uniforms is not None  # then it draws the next token as well: one pass over logits, not five
        kind = (identity, compiled, draws)
        step = self._step
        if step is not None and (self._model, step.compiled, step.draws) == kind and step.holds(rows, total):
            step.load(cache, mask, positions, repeats)
            return step, step(*inputs)
        self._step = step = None  # its memory is needed for the next

        def made(compiled: bool) -> tuple[FixedStep, Outcome]:
            step = FixedStep(model, cache, rows, total, compiled, compiled and draws)
            step.load(cache, mask, positions, repeats)
            return step, step.capture(*inputs) if self.capture else step(*inputs)

        begun = self._possible("step", "compiled", identity, lambda: made(True)) if compiled else None
        if begun is None and (self.capture or not self.compile):
            begun = self._possible("step", "captured", identity, lambda: made(False))
        if begun is not None:
            self._step, self._model = begun[0], identity
        return begun

    def _possible(self, what: str, how: str, identity: tuple[Any, ...], make: Callable[[], _Made]) -> _Made | None:
        """What `make` makes, or None where the model does what it cannot hold: then it is not tried again."""
        attempt = (what, how, *identity)
        if attempt in self._refused:
            return None
        try:
            return make()
        except torch.OutOfMemoryError:
            self.clear()
            raise
        except Exception as error:
            # Capturing is a matter of course, compiling was asked for.
            level = logging.WARNING if how == "compiled" else logging.INFO
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            _log.log(level, "the %s cannot be %s and is run without: %s", what, how, reason)
            self._refused.add(attempt)
            return None

    def clear(self) -> None:
        """Give the memory of what is captured back."""
        self._step = self._prompts = None


_kept: ContextVar[CapturedSteps | None] = ContextVar("_kept", default=None)


@contextmanager
def captured_steps(device: torch.device, compile: bool = False) -> Iterator[CapturedSteps | None]:
    """Captured steps for one call on a GPU, None elsewhere; inside `captured_steps_kept` those that are kept.

    With `compile` they are compiled, on a CPU as well.
    """
    if device.type != "cuda" and not compile:
        yield None
        return
    kept = _kept.get()
    steps = CapturedSteps() if kept is None else kept
    with steps.lock:
        steps.capture, steps.compile = device.type == "cuda", compile
        try:
            yield steps
        finally:
            if kept is None:
                steps.clear()


@contextmanager
def captured_steps_kept(steps: CapturedSteps | None = None) -> Iterator[CapturedSteps]:
    """Calls inside share the captured steps: a step that fits is replayed, and its memory is held until the end.

    Steps that are given are held longer, for the next time that they are given. Weights may change in place in between, as
    an optimizer changes them. What a model computes with them may not: a graph does not notice an adapter that is switched on
    or off.
    """
    kept = CapturedSteps() if steps is None else steps
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)
        if steps is None:
            kept.clear()


def capturable(hook: _Hook) -> _Hook:
    """Marks a forward hook that does the same operations on tensors every time, and nothing else.

    A model with any other hook is run operation by operation: a replayed step does not come by.
    """
    setattr(hook, CAPTURABLE, True)
    return hook


def _has_fixed_shape(model: Any, cache: Any) -> bool:
    """Whether a step can be the same kernels over the same memory every time, as far as one can tell without running it."""
    model = caller_of(model)
    config = model.config.get_text_config()
    return (
        all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)
        and getattr(model, "_can_compile_fullgraph", False)
        and config._attn_implementation in ("sdpa", "eager")
        and not getattr(config, "alibi", False)  # computed from a mask of two dimensions
        # Hooks run in Python, which a replay does not; casts under autocast are cached outside the graph.
        and all(getattr(hook, CAPTURABLE, False) for hook in _hooks(model))
        and not torch.is_autocast_enabled(model.device.type)
    )


def _hooks(model: Any) -> list[Any]:
    each = (module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks)
    return [hook for module in each for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]


def _identity(model: Any) -> tuple[Any, ...]:
    """The model, its hooks, and where its weights lie: a graph reads them there."""
    model = caller_of(model)
    parts = [id(model), model.config.get_text_config()._attn_implementation, *map(id, _hooks(model))]
    for module in model.modules():  # once for both, and with no names: a third of the time
        parts += [tensor.data_ptr() for tensor in module._parameters.values() if tensor is not None]
        parts += [tensor.data_ptr() for tensor in module._buffers.values() if tensor is not None]
    return tuple(parts)
