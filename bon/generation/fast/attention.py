"""Attention of decode steps: one query a row, over keys and values that are read where they are.

Transformers hands attention to functions that it knows by name. A view of a model (`bon.model_view`) is given a name of our
own, which sends every single query elsewhere: to a fused kernel of a GPU, or on a CPU to two batched products, since torch's
fused kernel for CPUs is made for many queries and takes twice to three times as long for one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

#: The name by which transformers knows `single_query_attention`.
NAME = "bon_single_queries"


def use_single_query_attention(view: Any) -> None:
    """Give a view of a model this attention, where the model leaves its attention to the function that `sdpa` names."""
    if view.config.get_text_config()._attn_implementation == "sdpa" and _dispatches({type(part) for part in view.modules()}):
        _register()
        view.config._attn_implementation = NAME  # in the configs inside it as well, which are the view's own


def _dispatches(kinds: set[type]) -> bool:
    """Whether modules of these classes ask for attention by name, mean transformers' own, and do not look at the name."""
    return any(map(_asks, kinds)) and not any(map(_looks_at_name, kinds))


@functools.cache
def _asks(kind: type) -> bool:
    from transformers import AttentionInterface  # only here: it imports half of transformers, and scipy

    interface = getattr(sys.modules.get(kind.__module__), "ALL_ATTENTION_FUNCTIONS", None)
    return isinstance(interface, AttentionInterface) and interface["sdpa"] is AttentionInterface()["sdpa"]


@functools.cache
def _looks_at_name(kind: type) -> bool:
    methods = (getattr(value, "__wrapped__", value) for value in vars(kind).values())
    return any("sdpa" in _constants(method.__code__) for method in methods if hasattr(method, "__code__"))


def _constants(code: CodeType) -> Iterator[Any]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _constants(constant)
        elif isinstance(constant, tuple | frozenset):
            yield from constant
        else:
            yield constant


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, single_query_attention)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])


def single_query_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """Attention of one query [R, H, 1, D] over keys [R, G, T, D]: the H / G heads of a group are its queries.

    So keys and values are not repeated for every head. What else a model asks for (several queries, dropout, capped scores,
    biases) is left to transformers' `sdpa`, whose signature this has.
    """
    asks_more = dropout or kwargs.get("softcap") or kwargs.get("position_bias") is not None
    if query.shape[2] != 1 or asks_more:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        found: tuple[torch.Tensor, Any] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, width)
    # Compiled, products are the faster way on a GPU too: what surrounds them becomes one kernel.
    attend = by_products if query.device.type == "cpu" or torch.compiler.is_compiling() else fused
    return attend(grouped, key, value, attention_mask, scaling).reshape(rows, 1, heads, value.shape[3]), None


def fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """By torch's fused kernels.

    Args:
        query: [R, G, Q, D].
        key: [R, G, T, D].
        value: [R, G, T, D].
        mask: broadcasts to [R, G, Q, T]; True, or 0, where a query may look.
        scaling: what scores are multiplied by; 1 / sqrt(D) unless given.
    """
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """As `fused`, by two batched products and a softmax between them."""
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value
