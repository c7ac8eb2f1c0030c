"""Tokens through the model, one step after another, behind prompts that are read once."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from bon.generation.fast.static_step import FixedStep
from bon.generation.fast.step_cache import CapturedSteps, Outcome
from bon.model_facts import last_logits_only


class Stepper:
    """Runs the model for R = B * K responses: over keys and values that grow, or in steps of a fixed shape.

    Args:
        model: a view of a causal LM with a cache of plain keys and values.
        mask: [B, L], 1 where a prompt has a token.
        repeats: K.
        steps: T, the most tokens of a response.
        captured: steps of a fixed shape, taken where the model allows them.

    Attributes:
        way: how steps are taken: "compiled", "captured" or "plain".
    """

    def __init__(self, model: Any, mask: torch.Tensor, repeats: int, steps: int, captured: CapturedSteps | None) -> None:
        self.model, self.mask, self.repeats, self.steps, self.captured = model, mask, repeats, steps, captured
        self.way = "plain"
        self._positions = (mask.cumsum(1) - 1).clamp(min=0)
        # Without padding there is nothing to mask, and attention takes its faster way. Looked at while the queue is empty.
        self._padded = not bool(mask.all())
        self._cache: Any = None
        self._step: FixedStep | _GrowingStep | None = None

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Read the prompts [B, L]: logits [R, V] after them."""
        read = None if self.captured is None else self.captured.prefill(self.model, ids, self.mask, self._positions)
        self._cache, logits = read or _prefill(self.model, ids, self.mask, self._positions)
        return logits.repeat_interleave(self.repeats, 0)

    def start(self, tokens: torch.Tensor, going: torch.Tensor, uniforms: torch.Tensor | None) -> Outcome:
        """What follows the first tokens; arguments as of `advance`."""
        # The candidates get keys and values of their own: those of the prompts are not held beyond this.
        cache, self._cache, begun = self._cache, None, None
        if self.captured is not None:
            last = self._positions[:, -1]
            begun = self.captured.begin(self.model, cache, self.mask, last, self.repeats, self.steps, tokens, going, uniforms)
        if begun is not None:
            self._step, outcome = begun
            self.way = "compiled" if begun[0].compiled else "captured"
            return outcome
        self._step = _GrowingStep(self.model, cache, self.mask, self._positions, self.repeats, self.steps, self._padded)
        return self._step(tokens, going)

    def advance(self, tokens: torch.Tensor, going: torch.Tensor, uniforms: torch.Tensor | None) -> Outcome:
        """What follows the next tokens.

        Args:
            tokens: [R].
            going: [R], whether a response goes on after its token.
            uniforms: [R] in [0, 1), where the next token may be drawn from nothing but the logits.

        Returns:
            Logits [R, V], or the next tokens [R] and their log-probabilities [R].
        """
        if self._step is None:
            return self.start(tokens, going, uniforms)
        return self._step(tokens, going, uniforms)


class _RoomyLayer(DynamicLayer):
    """Keys and values of one attention layer in one allocation with room for the whole response: growing copies nothing."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, repeats: int, room: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.length = keys.shape[2]
        self._room = tuple(_with_room(tensor, repeats, room) for tensor in (keys, values))
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (tensor[:, :, : self.length] for tensor in self._room)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        end = self.length + key_states.shape[2]
        for tensor, states in zip(self._room, (key_states, value_states), strict=True):
            tensor[:, :, self.length : end] = states
        self.length = end
        self._show()
        return self.keys, self.values


def _with_room(tensor: torch.Tensor, repeats: int, room: int) -> torch.Tensor:
    """[B, H, L, D] as [B * repeats, H, L + room, D], the first L positions filled."""
    batch, heads, length, width = tensor.shape
    roomy = tensor.new_empty(batch, repeats, heads, length + room, width)
    roomy[:, :, :, :length] = tensor[:, None]
    return roomy.view(batch * repeats, heads, length + room, width)


def _expanded(cache: DynamicCache, repeats: int, room: int) -> DynamicCache:
    """The cache of B prompts as the cache of B x repeats candidates, with room for that many further tokens."""
    layers: list[Any] = list(cache.layers)
    if all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers):
        cache.layers = [_RoomyLayer(layer.keys, layer.values, repeats, room) for layer in layers]
    else:
        cache.batch_repeat_interleave(repeats)
    return cache


def _prefill(model: Any, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """The cache of prompts [B, L], and the logits [B, V] after them."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
        return_dict=True,
        **last_logits_only(model),
    )
    return output.past_key_values, output.logits[:, -1]


class _GrowingStep:
    """One token through the model for every response, over keys and values that grow with it."""

    def __init__(
        self,
        model: Any,
        cache: DynamicCache,
        mask: torch.Tensor,
        position: torch.Tensor,
        repeats: int,
        steps: int,
        padded: bool,
    ) -> None:
        rows, self.seen = mask.shape[0] * repeats, mask.shape[1]
        self.model = model
        self.cache = _expanded(cache, repeats, steps)
        self.mask = torch.cat([mask.repeat_interleave(repeats, 0), mask.new_ones(rows, steps)], 1) if padded else None
        self.position = position[:, -1:].repeat_interleave(repeats, 0)

    def __call__(self, tokens: torch.Tensor, going: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [R, V] after the tokens [R]; they are not drawn from here."""
        self.position = self.position + going[:, None].long()  # rows that have ended stay inside the context
        self.seen += 1
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=None if self.mask is None else self.mask[:, : self.seen],
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        return output.logits[:, -1]
