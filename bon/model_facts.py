"""What a model is: what it has room for, what it knows, where it lies. Asked of the model itself, its config and its modules.

Policy, classifier and KL ask here alike. The model is that inside wrappers (`bon.wrappers.unwrapped`).
"""

from __future__ import annotations

import inspect
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from bon.model_view import caller_of, view_of

#: Names by which configs say how many positions a model has.
_POSITIONS = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "max_target_positions", "seq_length", "n_ctx")
#: Modules by whose names one knows a table of positions.
_TABLES = ("position_embeddings", "embed_positions", "wpe", "position_embedding", "pos_embedding")


def usable_positions(model: Any) -> int | None:
    """Return how many tokens a text may have; None where there is no limit.

    A table of positions with a padding index (RoBERTa and its kin) begins behind it, so that many fewer can be used.
    """
    config = model.config.get_text_config()
    stated = (getattr(config, name, None) for name in _POSITIONS)
    limit = next((int(value) for value in stated if isinstance(value, int) and not isinstance(value, bool)), None)
    if limit is None or limit <= 0:
        return None
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _TABLES and isinstance(module, nn.Embedding) and module.num_embeddings >= limit:
            before = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - before)
    return limit


def vocabulary_size(model: Any) -> int | None:
    """Return how many token ids the model can read; None where it does not say."""
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    size = getattr(embeddings, "num_embeddings", None)
    return size if size is not None else getattr(model.config.get_text_config(), "vocab_size", None)


def device_of(model: Any) -> torch.device:
    """Return the device that inputs go to: also of a model whose weights accelerate fetches when they are needed."""
    device: torch.device = model.device
    if device.type != "meta":
        return device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    executed = (getattr(hook, "execution_device", None) for hook in hooks)
    found = next((place for place in executed if place is not None), None)
    if found is None:
        raise ValueError(f"the weights of this {type(model).__name__} are nowhere (device meta): load them first")
    return torch.device(found)


def last_logits_only(model: Any) -> dict[str, int]:
    """Return the argument that spares a model the logits of all tokens but the last, where it takes one."""
    return {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}


def takes(model: Any, *names: str) -> bool:
    """Whether the model's forward has all of these arguments."""
    return set(names) <= set(inspect.signature(model.forward).parameters)


def check_draws_texts(model: Any) -> None:
    """Refuse what is no causal language model with a head.

    Raises:
        ValueError: an encoder-decoder model, a model without a language-model head, or an object that is no model.
    """
    name, config = type(model).__name__, getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise ValueError(f"candidates are drawn from a causal language model of transformers, got {name}")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is an encoder-decoder model: candidates are drawn from causal language models")
    if not (hasattr(model, "can_generate") and model.can_generate()):
        raise ValueError(f"{name} has no language-model head: load it by AutoModelForCausalLM.from_pretrained")


def cache_bytes_per_token(model: Any) -> int:
    """Return bytes of keys and values (or other state) of one token, measured once in the cache that the model makes.

    Layers may differ in width. Where the model makes no cache from two tokens, its config is asked instead.
    """
    known = _cache_bytes.setdefault(caller_of(model), {})
    if model.dtype not in known:
        try:
            known[model.dtype] = _measured(view_of(model, hooks=False))
        except Exception:  # a model may want more than tokens
            config = model.config.get_text_config()
            known[model.dtype] = 2 * config.num_hidden_layers * config.hidden_size * model.dtype.itemsize
    return known[model.dtype]


_cache_bytes: WeakKeyDictionary[Any, dict[torch.dtype, int]] = WeakKeyDictionary()


@torch.inference_mode()
def _measured(model: Any) -> int:
    ids = torch.ones((1, 2), dtype=torch.long, device=device_of(model))
    cache = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, return_dict=True).past_key_values
    size = 0
    for layer in cache.layers:
        tensors = (value for value in vars(layer).values() if isinstance(value, torch.Tensor))
        states = [tensor for tensor in tensors if tensor.dim() > 1]  # numbers beside them do not grow
        size += sum(state.numel() * state.element_size() for state in states)
    return max(1, size // 2)
