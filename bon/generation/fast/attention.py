"""Attention of decode steps: one query a row, over keys and values that are read where they are.

Transformers hands attention to functions that it knows by name. Inside `single_queries`, the one it calls `sdpa` sends every
single query elsewhere: to a fused kernel of a GPU, or on a CPU to two batched products, since torch's fused kernel for CPUs is
made for many queries and takes twice to three times as long for one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

_lock = threading.Lock()
#: What `sdpa` was for each that is inside `single_queries` now: of the first, transformers' own.
_found: list[Any] = []


@contextmanager
def single_queries() -> Iterator[None]:
    """Inside, `sdpa` of transformers is `grouped_attention`; threads may be inside at the same time."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # only here: it imports half of transformers, and scipy

    with _lock:
        _found.append(ALL_ATTENTION_FUNCTIONS["sdpa"])
        if len(_found) == 1:
            ALL_ATTENTION_FUNCTIONS["sdpa"] = functools.partial(grouped_attention, _found[0])
    try:
        yield
    finally:
        with _lock:
            found = _found.pop()
            if not _found:
                ALL_ATTENTION_FUNCTIONS["sdpa"] = found


def grouped_attention(
    plain: Any,
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
    biases) is left to `plain`, with transformers' own signature.
    """
    asks_more = dropout or kwargs.get("softcap") or kwargs.get("position_bias") is not None
    if query.shape[2] != 1 or asks_more:
        return plain(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
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
