"""Sampling options: one resolved GenerationConfig, and a refusal of everything that drawing token by token cannot honour."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import GenerationConfig

_log = logging.getLogger(__name__)
#: Ends of text that were told of: once is enough.
_told: set[tuple[int, ...]] = set()
#: Options of GenerationConfig that this loop honours: lengths, special tokens, and all that make a logits processor.
HONOURED = frozenset(
    {
        "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p",
        "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids",
        "renormalize_logits", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
        "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "watermarking_config",
        "pad_token_id", "bos_token_id", "eos_token_id",
    }
)  # fmt: skip
#: Options that change how `generate` runs, never which tokens come out.
_WITHOUT_EFFECT = frozenset(
    {
        "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
        "low_memory", "continuous_batching_config", "early_stopping", "length_penalty", "decoder_start_token_id",
        "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit",
        "assistant_lookbehind", "target_lookbehind", "is_assistant", "max_matching_ngram_size", "prefill_chunk_size",
        "transformers_version",
    }
)  # fmt: skip
#: Options that ask `generate` for more than tokens: refused where the caller sets them, whatever the model's own config says.
_OUTPUTS = frozenset(
    {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"}
)
_NEUTRAL = {
    "num_beams": 1, "num_return_sequences": 1, "num_beam_groups": 1, "guidance_scale": 1.0, "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0, "diversity_penalty": 0.0, "token_healing": False, "use_mtp": False,
    **dict.fromkeys(_OUTPUTS, False),
}  # fmt: skip
#: Where options have to lie. What is outside transformers leaves out of the sampling, without a word.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 < value < math.inf, "> 0 (at 0 all candidates are one text) and finite"),
    "top_p": (lambda value: 0 < value <= 1, "> 0 and at most 1 (the whole distribution)"),
    "top_k": (
        lambda value: 0 <= value < math.inf and value == int(value),
        "a whole number from 0 (the whole distribution) on",
    ),
    "typical_p": (lambda value: 0 < value <= 1, "> 0 and at most 1 (the whole distribution)"),
    "min_p": (lambda value: 0 <= value <= 1, "at least 0 (the whole distribution) and at most 1"),
    "epsilon_cutoff": (lambda value: 0 <= value < 1, "at least 0 (the whole distribution) and below 1"),
    "eta_cutoff": (lambda value: 0 <= value < 1, "at least 0 (the whole distribution) and below 1"),
}


def resolve_generation_config(
    model: Any, tokenizer: Any, generation_config: GenerationConfig | None, overrides: dict[str, Any]
) -> GenerationConfig:
    """One GenerationConfig from, in rising priority: the model's own, the caller's, the keywords of the call.

    What nobody sets means the whole distribution: temperature 1, no top-k, no top-p. `do_sample` unset means sampling.

    Raises:
        TypeError: a keyword that GenerationConfig does not have.
        ValueError: an option that this sampler cannot honour, or one that is out of its range.
    """
    config = copy.deepcopy(generation_config) if generation_config is not None else GenerationConfig()
    if config.do_sample is None:  # before the update, which looks at what fits together
        config.do_sample = True
    unknown = config.update(**{name: value for name, value in overrides.items() if (name, value) != ("do_sample", None)})
    if unknown:
        raise TypeError(f"not an option of GenerationConfig: {', '.join(sorted(unknown))}")
    model_config = getattr(model, "generation_config", None)
    inherited = model_config.to_dict() if model_config is not None else {}
    if config.max_length is not None or config.max_new_tokens is not None:
        inherited = {name: value for name, value in inherited.items() if name not in ("max_length", "max_new_tokens")}
    for name, value in inherited.items():
        if value is not None and name not in _OUTPUTS and getattr(config, name, None) is None:
            setattr(config, name, value)
    for name, value in vars(config).items():
        honoured = name in HONOURED or name in _WITHOUT_EFFECT or name.startswith("_")
        if not honoured and value is not None and value != _NEUTRAL.get(name):
            raise ValueError(
                f"generation option {name}={value!r} cannot be honoured: candidates are drawn one token at a time from one "
                f"model; leave it out (honoured are {', '.join(sorted(HONOURED))})"
            )
    for name, (allowed, where) in _RANGES.items():
        given = getattr(config, name, None)
        if given is not None and not allowed(given):
            raise ValueError(f"{name} must be {where}, got {given}")
    given = getattr(generation_config, "eos_token_id", None)
    if given is None and "eos_token_id" not in overrides and config.eos_token_id is not None:
        _tell_of_other_end(config.eos_token_id, tokenizer)
    if config.temperature is not None:
        config.temperature = float(config.temperature)  # transformers refuses a whole number
    config.top_k = int(config.top_k) if config.top_k else 0
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos[0] if isinstance(eos, list) else eos if eos is not None else 0
    if not 0 <= config.pad_token_id < (getattr(model.config.get_text_config(), "vocab_size", None) or math.inf):
        # Added without resizing the model, or an end of text that never comes (eos_token_id=-1): any masked id will do.
        config.pad_token_id = 0
    return config


def _tell_of_other_end(ends: int | list[int], tokenizer: Any) -> None:
    ends = list(ends) if isinstance(ends, list | tuple) else [ends]
    end = tokenizer.eos_token_id
    if end is not None and end not in ends and (end, *ends) not in _told:
        _told.add((end, *ends))
        _log.warning(
            "the tokenizer ends texts with token %d, where responses do not end: the model's generation_config names %s; "
            "pass eos_token_id=%s to end them at both",
            end,
            ends,
            [*ends, end],
        )


def sampling_of(config: GenerationConfig) -> dict[str, Any]:
    """Everything in a resolved config that decides which tokens are drawn, as JSON values."""
    return {name: _plain(value) for name, value in vars(config).items() if name in HONOURED and value is not None}


def _plain(value: Any) -> Any:
    """An option as a JSON value."""
    if isinstance(value, dict):
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, bool | int | float | str) else repr(value)


def reads_positions(config: GenerationConfig) -> bool:
    """Whether an option counts or matches tokens from the left edge of the batch, where padding would be taken for text."""
    return bool(
        (config.min_length or 0) > 0
        or (config.no_repeat_ngram_size or 0) > 0
        or config.bad_words_ids
        or config.sequence_bias
        or config.forced_eos_token_id is not None
        or config.exponential_decay_length_penalty
        or config.forced_bos_token_id is not None
        or config.begin_suppress_tokens
        or config.watermarking_config is not None
    )
