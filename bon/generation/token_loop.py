"""The token loop: a batch of prompts, K candidates each, one uniform number a token.

Two ways through the same `_Draw`: a plain loop over the model's forward, in which the prompts are prefilled once and their
keys and values are copied to the candidates; and, for models that keep another kind of state (Mamba and its kin),
transformers' own `generate`, steered token by token by a logits processor that has already drawn.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from bon.generation.fast.step_cache import CapturedSteps, Outcome
from bon.generation.fast.views import sampling_view
from bon.generation.sampling import most_likely, sampled
from bon.generation.stepper import Stepper
from bon.model_facts import takes

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

    def next(self, ids: torch.Tensor, outcome: Outcome) -> torch.Tensor:
        """The next token of every row [R]: drawn from logits, or taken where it is drawn already."""
        return self.draw(ids, outcome) if isinstance(outcome, torch.Tensor) else self.take(*outcome)

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


def keeps_plain_cache(model: Any) -> bool:
    """Whether the model's state is a transformers cache of keys and values that can be repeated for every candidate."""
    return (
        takes(model, "past_key_values", "position_ids", "attention_mask")
        and not getattr(model, "_is_stateful", False)
        and set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
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
    by_generate: bool = False,
) -> Responses:
    """Draw `repeats` responses for every prompt, or the rest of responses that have begun.

    Args:
        model: a transformers causal LM. What runs is a view of it, in evaluation mode; a call of many batches makes it once.
        config: from `resolve_generation_config`.
        prompts: token ids of B prompts, none empty; they are padded on the left.
        repeats: K, candidates a prompt.
        uniforms: [B * K, T] on the model's device; candidate k of prompt b is row b * K + k.
        limits: [B * K] the most tokens each response may have, at most T.
        extra_processor: runs after all processors that the config names; what it returns is what tokens are drawn from.
        begun: [B, t] response tokens that stand behind each prompt already. `uniforms`, `limits` and what is returned are
            then about the tokens after those; the options still count from the end of the prompt.
        captured: steps of a fixed shape, taken where the model allows them.
        by_generate: whether transformers' own `generate` runs the steps, whatever the model.
    """
    model = sampling_view(model)
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
    if keeps_plain_cache(model) and not by_generate:
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
    stepper = Stepper(model, mask, repeats, steps, captured)
    outcome: Outcome = stepper.prefill(ids)
    all_ids = torch.cat([ids.repeat_interleave(repeats, 0), draw.token_ids], 1)
    every = _looks_every(ids.device)
    for step in range(steps):
        tokens = all_ids[:, width + step] = draw.next(all_ids[:, : width + step], outcome)
        if step + 1 == steps or ((step + 1) % every == 0 and not draw.going.any()):
            break
        outcome = stepper.advance(tokens, draw.going, draw.uniforms[:, step + 1] if draw.plain else None)
    return stepper.way


class _Steered(LogitsProcessor):
    """Draws the token itself and leaves `generate` no other choice."""

    def __init__(self, draw: _Draw) -> None:
        self.draw = draw

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        tokens = self.draw.draw(input_ids, scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)  # type: ignore[return-value]


def _decode_generate(model: Any, ids: torch.Tensor, mask: torch.Tensor, repeats: int, draw: _Draw) -> None:
    model.generate(
        input_ids=ids.repeat_interleave(repeats, 0),
        attention_mask=mask.repeat_interleave(repeats, 0),
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=draw.uniforms.shape[1],
            eos_token_id=draw.eos.tolist() or None,
            pad_token_id=draw.pad_token_id,
        ),
        logits_processor=LogitsProcessorList([_Steered(draw)]),
    )
