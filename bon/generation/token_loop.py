"""The token loop: a batch of prompts, K candidates each, one uniform number a token.

Two ways through the same `_Draw`: a plain loop over the model's forward, in which the prompts are prefilled once and their
keys and values are copied to the candidates; and, for models that keep another kind of state (Mamba and its kin),
transformers' own `generate`, steered token by token by a logits processor that has already drawn.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from bon.generation.fast.attention import single_queries
from bon.generation.fast.step_cache import CapturedSteps, Outcome
from bon.generation.sampling import most_likely, sampled

#: Steps between two looks at whether all responses have ended. A look makes a GPU's queue run empty; on a CPU it is free.
_GPU_LOOKS_EVERY = 8


@dataclass
class Responses:
    """What one batch gave, a row a candidate: token ids [R, T], lengths [R] and log-probabilities [R] in nats.

    `steps` says how they were drawn: "compiled", "captured" in a CUDA graph, or "plain".
    """

    token_ids: torch.Tensor
    lengths: torch.Tensor
    logprobs: torch.Tensor
    raw_logprobs: torch.Tensor
    steps: str


class _Draw:
    """The state of R responses that grow by one token a step."""

    def __init__(
        self, config: GenerationConfig, processors: LogitsProcessorList, uniforms: torch.Tensor, limits: torch.Tensor
    ) -> None:
        rows, steps = uniforms.shape
        device = uniforms.device
        eos = config.eos_token_id
        self.processors = processors
        self.greedy = not config.do_sample
        self.uniforms = uniforms
        self.limits = limits
        self.eos = torch.tensor([] if eos is None else eos if isinstance(eos, list) else [eos], device=device)
        self.pad_token_id = config.pad_token_id
        self.step = 0
        self.going = torch.ones(rows, dtype=torch.bool, device=device)
        self.token_ids = torch.full((rows, steps), self.pad_token_id, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(rows, dtype=torch.float64, device=device)
        self.raw_logprobs = torch.zeros(rows, dtype=torch.float64, device=device)

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the model's own distribution: then logits are all it takes."""
        return not self.processors and not self.greedy

    def draw(self, ids: Any, logits: Any) -> torch.Tensor:
        """The next token of every row [R], from logits [R, V] after the ids [R, L + t]; rows that have ended get padding."""
        scores = logits
        if self.processors:
            logits = logits.float()
            scores = self.processors(ids, logits.clone())
        tokens, logprobs = most_likely(scores) if self.greedy else sampled(scores, self.uniforms[:, self.step])
        raw = None
        if self.processors:
            raw = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
        return self.take(tokens, logprobs, raw)

    def take(self, tokens: torch.Tensor, logprobs: torch.Tensor, raw_logprobs: torch.Tensor | None = None) -> torch.Tensor:
        """As `draw`, with tokens [R] that are drawn already and their log-probabilities [R], raw ones if they differ."""
        logprobs = torch.where(self.going, logprobs.double(), 0.0)
        self.logprobs += logprobs
        self.raw_logprobs += logprobs if raw_logprobs is None else torch.where(self.going, raw_logprobs.double(), 0.0)
        tokens = torch.where(self.going, tokens, self.pad_token_id)
        self.token_ids[:, self.step] = tokens
        self.lengths += self.going
        self.step += 1
        self.going &= ~torch.isin(tokens, self.eos) & (self.lengths < self.limits)
        return tokens

    def responses(self, steps: str) -> Responses:
        return Responses(self.token_ids, self.lengths, self.logprobs, self.raw_logprobs, steps)


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


def keeps_plain_cache(model: Any) -> bool:
    """Whether the model's state is a transformers cache of keys and values that can be repeated for every candidate."""
    parameters = inspect.signature(model.forward).parameters
    return (
        {"past_key_values", "position_ids", "attention_mask"} <= set(parameters)
        and not getattr(model, "_is_stateful", False)
        and model._supports_default_dynamic_cache()
        and set(getattr(model.config, "layer_types", None) or ["full_attention"])
        <= {"full_attention", "sliding_attention", "chunked_attention"}
    )


@torch.inference_mode()
def decode(
    model: Any,
    config: GenerationConfig,
    prompts: Sequence[Sequence[int]],
    repeats: int,
    uniforms: torch.Tensor,
    limits: torch.Tensor,
    extra_processor: LogitsProcessor | None = None,
    begun: torch.Tensor | None = None,
    captured: CapturedSteps | None = None,
) -> Responses:
    """Draw `repeats` responses for every prompt, or the rest of responses that have begun.

    Args:
        model: a transformers causal LM in evaluation mode.
        config: from `resolve_generation_config`.
        prompts: token ids of B prompts, none empty; they are padded on the left.
        repeats: K, candidates a prompt.
        uniforms: [B * K, T] on the model's device; candidate k of prompt b is row b * K + k.
        limits: [B * K] the most tokens each response may have, at most T.
        extra_processor: runs after all processors that the config names; what it returns is what tokens are drawn from.
        begun: [B, t] response tokens that stand behind each prompt already. `uniforms`, `limits` and what is returned are
            then about the tokens after those; the options still count from the end of the prompt.
        captured: steps of a fixed shape, taken where the model allows them.
    """
    device = uniforms.device
    steps = uniforms.shape[1]
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), config.pad_token_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    behind = 0 if begun is None else begun.shape[1]
    processors = _processors(model, config, mask.repeat_interleave(repeats, 0), behind + steps)
    if extra_processor is not None:
        processors.append(extra_processor)
    if begun is not None:
        ids, mask = torch.cat([ids, begun], 1), torch.cat([mask, torch.ones_like(begun)], 1)
    draw = _Draw(config, processors, uniforms, limits)
    steps_taken = "plain"
    if keeps_plain_cache(model):
        steps_taken = _decode_forward(model, ids, mask, repeats, draw, captured)
    else:
        _decode_generate(model, ids, mask, repeats, draw)
    return draw.responses(steps_taken)


def _processors(model: Any, config: GenerationConfig, mask: torch.Tensor, steps: int) -> LogitsProcessorList:
    config = copy.deepcopy(config)
    config.max_length = mask.shape[1] + steps
    model._prepare_special_tokens(config, True, device=mask.device)
    return model._get_logits_processor(
        config, input_ids_seq_length=mask.shape[1], device=mask.device, model_kwargs={"attention_mask": mask}
    )


def _looks_every(device: torch.device) -> int:
    return 1 if device.type == "cpu" else _GPU_LOOKS_EVERY


def _decode_forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, repeats: int, draw: _Draw, captured: CapturedSteps | None
) -> str:
    """Draw with the prompts prefilled once; says whether steps were "compiled", "captured" or "plain"."""
    steps, width = draw.uniforms.shape[1], ids.shape[1]
    position = (mask.cumsum(1) - 1).clamp(min=0)
    # Without padding there is nothing to mask, and attention takes its faster way. Looked at while the queue is empty.
    padded = not bool(mask.all())
    prefilled = None if captured is None else captured.prefill(model, ids, mask, position)
    cache, logits = prefilled or _prefill(model, ids, mask, position)
    logits = logits.repeat_interleave(repeats, 0)
    all_ids = torch.cat([ids.repeat_interleave(repeats, 0), draw.token_ids], 1)
    every = _looks_every(ids.device)
    advance: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Outcome] | None = None
    outcome: Outcome = logits
    way = "plain"
    with single_queries() if ids.device.type == "cpu" else nullcontext():
        for step in range(steps):
            if isinstance(outcome, torch.Tensor):
                tokens = draw.draw(all_ids[:, : width + step], outcome)
            else:
                tokens = draw.take(*outcome)
            all_ids[:, width + step] = tokens
            if step + 1 == steps or ((step + 1) % every == 0 and not draw.going.any()):
                break
            uniforms = draw.uniforms[:, step + 1] if draw.plain else None
            if advance is not None:
                outcome = advance(tokens, draw.going, uniforms)
                continue
            begun = None
            if captured is not None:
                begun = captured.begin(model, cache, mask, position[:, -1], repeats, steps, tokens, draw.going, uniforms)
            if begun is not None:
                advance, outcome = begun
                way = "compiled" if begun[0].compiled else "captured"
            else:
                advance = _GrowingStep(model, cache, mask, position[:, -1:], repeats, steps, padded)
                outcome = advance(tokens, draw.going)
            del cache, prefilled  # the candidates have their own now
    return way


def _prefill(model: Any, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor) -> tuple[Any, torch.Tensor]:
    """The cache of prompts [B, L], and the logits [B, V] after them."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
        return_dict=True,
        **({"logits_to_keep": 1} if model._supports_logits_to_keep() else {}),
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
        self.position = position.repeat_interleave(repeats, 0)

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


class _Steered(LogitsProcessor):
    """Draws the token itself and leaves `generate` no other choice."""

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        tokens = self.draw.draw(input_ids, scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)  # type: ignore[return-value]


def _decode_generate(model: Any, ids: torch.Tensor, mask: torch.Tensor, repeats: int, draw: _Draw) -> None:
    eos = draw.eos.tolist() or None
    saved = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        model.generate(
            input_ids=ids.repeat_interleave(repeats, 0),
            attention_mask=mask.repeat_interleave(repeats, 0),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=draw.uniforms.shape[1], eos_token_id=eos, pad_token_id=draw.pad_token_id
            ),
            logits_processor=LogitsProcessorList([_Steered(draw)]),
        )
    finally:
        model.generation_config = saved
