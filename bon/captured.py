"""Decode steps of a fixed shape: captured once in a CUDA graph, then replayed for every token.

A step of a small model is a thousand kernels of a few microseconds, and Python launches them ten times as slowly as a GPU runs
them. A graph launches them all at once, but only over tensors that never move: keys and values in storage for the whole
response, a mask that is opened by one position a step, tokens and positions in buffers.

Such a step can also be compiled, which makes a fifth of the kernels of it: see `_program`.
"""

from __future__ import annotations

import functools
import gc
import logging
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from bon.attention import single_queries
from bon.drawing import sampled
from bon.packed import PackedWeights, packed_weights

_Made = TypeVar("_Made")
_Hook = TypeVar("_Hook", bound=Callable[..., Any])
#: The mark of `capturable`.
_CAPTURABLE = "_bon_capturable"

#: What follows a token: logits [R, V], or the next token [R] where it is drawn already and its log-probability [R] in nats.
Outcome = torch.Tensor | tuple[torch.Tensor, torch.Tensor]

_log = logging.getLogger(__name__)

#: Attention takes a mask as it is where its rows are aligned to this many positions; otherwise it copies it in every layer.
_ALIGNMENT = 16
#: A capture costs about as much as three steps launched one by one: shorter responses are drawn without.
_FEWEST_STEPS = 8
#: Shapes whose compiled steps are remembered for a model.
_PROGRAMS = 16
#: Classes that compute weight * x / sqrt(mean(x^2) + eps), in eight kernels where torch has one.
_RMS_NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm", "Phi3RMSNorm"})


class CapturedSteps:
    """Gives every batch its step; the last one captured is kept for further batches of its shape.

    Args:
        capture: whether a step is captured in a CUDA graph; otherwise the same step is launched operation by operation.
        compile: whether it is compiled before; where that fails, it is run as without.
    """

    def __init__(self, capture: bool = True, compile: bool = False) -> None:
        self.capture, self.compile = capture, compile
        self.lock = threading.RLock()
        self._step: _FixedStep | None = None
        self._prompts: _FixedPrompts | None = None
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

            def made() -> _FixedPrompts:
                prompts = _FixedPrompts(model, ids, mask, positions, step.dtype)
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
    ) -> tuple[_FixedStep, Outcome] | None:
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

        def made(compiled: bool) -> tuple[_FixedStep, Outcome]:
            step = _FixedStep(model, cache, rows, total, compiled, compiled and draws)
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
    an optimiser changes them. What a model computes with them may not: a graph does not notice an adapter that is switched on
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


class _FixedLayer(DynamicLayer):
    """Keys and values of one layer [R, H, total, D], all of them in every step; what is not there yet is masked."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.keys, self.values, self.slot = keys, values, slot

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.keys.index_copy_(2, self.slot, key_states)
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values


def _room(like: torch.Tensor, rows: int, total: int) -> torch.Tensor:
    """Zeros, not whatever the memory held: a masked NaN would still be a NaN."""
    return like.new_zeros(rows, like.shape[1], total, like.shape[3])


class _FixedStep:
    """One token through the model for `rows` responses of at most `total` tokens with their prompts."""

    def __init__(self, model: Any, cache: Any, rows: int, total: int, compiled: bool = False, draws: bool = False) -> None:
        like = cache.layers[0].keys
        self.model, self.rows, self.total, self.dtype, self.compiled = model, rows, total, like.dtype, compiled
        self._closed = torch.finfo(like.dtype).min
        self._tokens = torch.zeros((rows, 1), dtype=torch.long, device=like.device)
        self._positions = torch.zeros_like(self._tokens)
        self._uniforms = torch.zeros(rows, dtype=torch.float64, device=like.device) if draws else None
        self._slot = torch.zeros(1, dtype=torch.long, device=like.device)
        self._mask = like.new_full((rows, 1, 1, total), self._closed)
        self._keys = [_room(layer.keys, rows, total) for layer in cache.layers]
        self._values = [_room(layer.values, rows, total) for layer in cache.layers]
        self._graph: Any = None
        self._outcome: Outcome = like.new_empty(0)
        self._packed = PackedWeights()
        self._live = self._at = 0
        self._ran = False

    def holds(self, rows: int, total: int) -> bool:
        """Whether it is good for a batch. Compiled, for one that leaves more of it idle: another costs half a minute."""
        if self.compiled:
            return self.rows // 8 < rows <= self.rows and self.total // 2 < total <= self.total
        return self.rows // 2 < rows <= self.rows and self.total == total

    def load(self, cache: Any, mask: torch.Tensor, positions: torch.Tensor, repeats: int) -> None:
        """Take in the prompts of a batch, and the weights of today; rows beyond its own run idle."""
        self._packed.renew()
        prompts, width = mask.shape
        self._live, self._at = prompts * repeats, width
        for keys, values, layer in zip(self._keys, self._values, cache.layers, strict=True):
            for storage, states in ((keys, layer.keys), (values, layer.values)):
                storage[:, :, width:].zero_()
                storage[: self._live].view(prompts, repeats, *storage.shape[1:])[:, :, :, :width] = states[:, None]
        self._mask.fill_(self._closed)
        self._mask[: self._live, 0, 0, :width].masked_fill_(mask.repeat_interleave(repeats, 0).bool(), 0.0)
        self._positions.zero_()
        self._positions[: self._live, 0] = positions.repeat_interleave(repeats)
        self._slot.fill_(width)

    @property
    def draws(self) -> bool:
        """Whether it draws the next token as well."""
        return self._uniforms is not None

    def __call__(self, tokens: torch.Tensor, going: torch.Tensor, uniforms: torch.Tensor | None) -> Outcome:
        """What comes after the tokens [R]; it holds until the next call. Rows that have ended stay where they are.

        Args:
            tokens: [R].
            going: [R], whether a response goes on after its token.
            uniforms: [R], to draw the next one with, for a step that does.
        """
        self._set(tokens, going, uniforms)
        if self._graph is None:
            self._outcome = self._forward()
        else:
            self._graph.replay()
        return self._alive(self._outcome)

    def _set(self, tokens: torch.Tensor, going: torch.Tensor, uniforms: torch.Tensor | None) -> None:
        self._tokens[: self._live, 0] = tokens
        self._positions[: self._live, 0] += going
        if self._uniforms is not None and uniforms is not None:
            self._uniforms[: self._live] = uniforms
        self._slot.fill_(self._at)
        self._mask[..., self._at] = 0.0
        self._at += 1

    def _alive(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, torch.Tensor):
            return outcome[: self._live]
        tokens, logprobs = outcome
        return tokens[: self._live], logprobs[: self._live]

    def capture(self, tokens: torch.Tensor, going: torch.Tensor, uniforms: torch.Tensor | None) -> Outcome:
        """As `__call__`, and record the step for the calls that follow; errors as of `_recorded`."""
        self._set(tokens, going, uniforms)
        if self.compiled:
            self._forward()  # compiles, and may wait for the GPU to do so
        self._graph, self._outcome, first = _recorded(self._forward, self._tokens.device)
        for tensor in (first,) if isinstance(first, torch.Tensor) else first:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))  # it comes from another
        return self._alive(first)

    def _forward(self) -> Outcome:
        inputs = (self._tokens, self._positions, self._mask, self._slot, self._keys, self._values, self._uniforms)
        if not self.compiled:
            with _fewer_kernels(self.model):
                return _step(self.model, *inputs)
        quiet = nullcontext() if self._ran else warnings.catch_warnings(action="ignore")  # a compiler's advice
        with single_queries(), packed_weights(self._packed), quiet:
            outcome: Outcome = _program(self.model, self.rows, self.total, self.draws)(self.model, *inputs)
        self._ran = True
        return outcome


def _step(
    model: Any,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    mask: torch.Tensor,
    slot: torch.Tensor,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
    uniforms: torch.Tensor | None,
) -> Outcome:
    """What comes after tokens [R, 1], whose keys and values are written at `slot` [1] of those of every layer."""
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=Cache(layers=[_FixedLayer(*layer, slot) for layer in zip(keys, values, strict=True)]),
        use_cache=True,
        return_dict=True,
    )
    logits: torch.Tensor = output.logits[:, -1]
    return logits if uniforms is None else sampled(logits, uniforms)


_programs: WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = WeakKeyDictionary()


def _program(model: Any, rows: int, total: int, draws: bool) -> Any:
    """`_step`, compiled for one shape.

    It holds no weights, keys or values, only what is computed with them, so it outlives the call, and a second call of its
    shape need not compile again.
    """
    from bon.compiler import options  # only here: it imports torch's compiler, which takes a second

    shapes = _programs.setdefault(model, {})
    shape = (rows, total, draws)
    if shape not in shapes:
        while len(shapes) >= _PROGRAMS:
            del shapes[next(iter(shapes))]
        # What is compiled belongs to a code object: with one of its own a shape does not count as a recompilation of another,
        # of which there may be but eight, and goes when it is forgotten.
        step = types.FunctionType(_step.__code__.replace(), _step.__globals__)
        shapes[shape] = torch.compile(step, fullgraph=True, dynamic=False, options=options())
    return shapes[shape]


class _FixedPrompts:
    """The prompts of a batch through the model, B of L tokens with their padding."""

    def __init__(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> None:
        self.model = model
        self._closed = torch.finfo(dtype).min
        self._ids, self._positions = ids.clone(), positions.clone()
        prompts, width = ids.shape
        self._before = torch.ones((width, width), dtype=torch.bool, device=ids.device).tril()
        self._itself = torch.eye(width, dtype=torch.bool, device=ids.device)
        self._mask = torch.empty((prompts, 1, width, width), dtype=dtype, device=ids.device)
        self._load(ids, mask, positions)
        self._graph: Any = None
        self._result: Any = None

    def _load(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> None:
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        # Padding sees itself: with nothing to see at all it would become NaN.
        seen = (self._before & mask.bool()[:, None, None, :]) | self._itself
        self._mask.fill_(self._closed).masked_fill_(seen, 0.0)

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> tuple[Any, torch.Tensor]:
        self._load(ids, mask, positions)
        if self._graph is None:
            self._result = self._forward()
        else:
            self._graph.replay()
        cache, logits = self._result
        return Cache(layers=list(cache.layers)), logits

    def capture(self) -> None:
        """Record the pass, for `__call__` to replay; errors as of `_recorded`."""
        self._graph, self._result, _ = _recorded(self._forward, self._ids.device)

    def _forward(self) -> tuple[Any, torch.Tensor]:
        with _fewer_kernels(self.model):
            output = self.model(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=DynamicCache(config=self.model.config),
                use_cache=True,
                return_dict=True,
                **({"logits_to_keep": 1} if self.model._supports_logits_to_keep() else {}),
            )
        return output.past_key_values, output.logits[:, -1]


def _recorded(forward: Callable[[], _Made], device: torch.device) -> tuple[torch.cuda.CUDAGraph, _Made, _Made]:
    """Run a pass once, so that all is set up, then record it: the graph, what its replays write, and what the first run gave.

    Raises:
        RuntimeError: the pass waits for the GPU, which a graph cannot; it is found before anything is recorded.
        torch.OutOfMemoryError: the GPU is too small.
    """
    stream, current = _capture_stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream), _waiting_is_an_error():
            first = forward()
        stream.synchronize()
        torch.cuda.empty_cache()  # no memory can be handed back while recording
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream), _no_collection():
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                result = forward()
            finally:
                graph.capture_end()
    finally:
        current.wait_stream(stream)  # after an error too: memory of this stream was in use there
    return graph, result, first


def capturable(hook: _Hook) -> _Hook:
    """Marks a forward hook that does the same operations on tensors every time, and nothing else.

    A model with any other hook is run operation by operation: a replayed step does not come by.
    """
    setattr(hook, _CAPTURABLE, True)
    return hook


def _has_fixed_shape(model: Any, cache: Any) -> bool:
    """Whether a step can be the same kernels over the same memory every time, as far as one can tell without running it."""
    config = model.config.get_text_config()
    return (
        all(type(layer) is DynamicLayer and layer.is_initialized for layer in cache.layers)
        and getattr(model, "_can_compile_fullgraph", False)
        and config._attn_implementation in ("sdpa", "eager")
        and not getattr(config, "alibi", False)  # computed from a mask of two dimensions
        # Hooks run in Python, which a replay does not; casts under autocast are cached outside the graph.
        and all(getattr(hook, _CAPTURABLE, False) for hook in _hooks(model))
        and not torch.is_autocast_enabled(model.device.type)
    )


def _hooks(model: Any) -> list[Any]:
    each = (module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks)
    return [hook for module in each for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]


def _identity(model: Any) -> tuple[Any, ...]:
    """The model, its hooks, and where its weights lie: a graph reads them there."""
    parts = [id(model), model.config.get_text_config()._attn_implementation, *map(id, _hooks(model))]
    for module in model.modules():  # once for both, and with no names: a third of the time
        parts += [tensor.data_ptr() for tensor in module._parameters.values() if tensor is not None]
        parts += [tensor.data_ptr() for tensor in module._buffers.values() if tensor is not None]
    return tuple(parts)


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures: cuBLAS keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream(device)


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # setting it warns that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage that holds GPU memory must not be collected while recording."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _fewer_kernels(model: Any) -> Iterator[None]:
    """The same mathematics in fewer kernels; results agree to rounding."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
        stack.enter_context(single_queries())
        for module in model.modules():
            if type(module).__name__ in _RMS_NORMS and "forward" not in vars(module):
                module.forward = functools.partial(_fused_norm, module)
                stack.callback(delattr, module, "forward")
        yield


def _fused_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)
