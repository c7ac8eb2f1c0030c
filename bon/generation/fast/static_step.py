"""A decode step of a fixed shape: launched operation by operation, compiled, or recorded in a CUDA graph.

Keys and values lie in storage for the whole response, a mask is opened by one position a step, and tokens and positions lie in
buffers: the same kernels over the same memory every time.
"""

from __future__ import annotations

import types
import warnings
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from bon.generation.fast.cuda_graph import recorded
from bon.generation.fast.fused_norms import one_kernel_attention
from bon.generation.fast.packed_weights import PackedWeights, packed_weights
from bon.generation.fast.views import fused_view
from bon.generation.sampling import sampled
from bon.model_view import caller_of

#: What follows a token: logits [R, V], or the next token [R] where it is drawn already and its log-probability [R] in nats.
Outcome = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
#: Shapes whose compiled steps are remembered for a model.
_PROGRAMS = 16


class FixedStep:
    """One token through the model for `rows` responses of at most `total` tokens with their prompts."""

    def __init__(self, model: Any, cache: Any, rows: int, total: int, compiled: bool = False, draws: bool = False) -> None:
        like = cache.layers[0].keys
        self.model = model if compiled else fused_view(model)
        self.rows, self.total, self.dtype, self.compiled = rows, total, like.dtype, compiled
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
        """Take in the prompts of a batch, and the current weights; rows beyond its own run idle."""
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
        """As `__call__`, and record the step for the calls that follow; errors as of `recorded`."""
        self._set(tokens, going, uniforms)
        if self.compiled:
            self._forward()  # compiles, and may wait for the GPU to do so
        self._graph, self._outcome, first = recorded(self._forward, self._tokens.device)
        for tensor in (first,) if isinstance(first, torch.Tensor) else first:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))  # it comes from another
        return self._alive(first)

    def _forward(self) -> Outcome:
        inputs = (self._tokens, self._positions, self._mask, self._slot, self._keys, self._values, self._uniforms)
        if not self.compiled:
            with one_kernel_attention():
                return _step(self.model, *inputs)
        quiet = nullcontext() if self._ran else warnings.catch_warnings(action="ignore")  # a compiler's advice
        with packed_weights(self._packed), quiet:
            outcome: Outcome = _program(self.model, self.rows, self.total, self.draws)(self.model, *inputs)
        self._ran = True
        return outcome


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
    from bon.generation.fast.inductor import options  # only here: it imports torch's compiler, which takes a second

    shapes = _programs.setdefault(caller_of(model), {})
    shape = (rows, total, draws)
    if shape not in shapes:
        while len(shapes) >= _PROGRAMS:
            del shapes[next(iter(shapes))]
        # What is compiled belongs to a code object: with one of its own a shape does not count as a recompilation of another,
        # of which there may be but eight, and goes when it is forgotten.
        step = types.FunctionType(_step.__code__.replace(), _step.__globals__)
        shapes[shape] = torch.compile(step, fullgraph=True, dynamic=False, options=options())
    return shapes[shape]
