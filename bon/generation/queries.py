"""The forms in which users of TRL pass tokenized queries, and the one that everything else takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def query_token_ids(tokenized_query: Any, attention_mask: Any = None, padding: int | None = None) -> list[list[int]]:
    """Token ids of every query, from any of the forms that `BestOfNSampler.generate` takes, without their padding.

    >>> query_token_ids([1, 2]), query_token_ids(torch.tensor([[1, 2], [3, 4]]))
    ([[1, 2]], [[1, 2], [3, 4]])
    >>> query_token_ids(torch.tensor([[0, 1], [3, 4]]), padding=0)
    [[1], [3, 4]]

    Args:
        tokenized_query: token ids.
        attention_mask: 1 where a query has a token, in any of the same forms: the others are left out.
        padding: a token that is never text: it is left out on both sides of a query.

    Raises:
        ValueError: no query, an empty one, another form, or a mask of another shape.
    """
    queries = _rows(tokenized_query, "tokenized_query")
    if attention_mask is not None:
        # Times 1: a mask may hold truth values.
        masks = _rows(attention_mask * 1 if hasattr(attention_mask, "dtype") else attention_mask, "attention_mask")
        if [len(mask) for mask in masks] != [len(query) for query in queries]:
            raise ValueError("attention_mask must have a number for every token of tokenized_query, and no other")
        queries = [list(itertools.compress(query, mask)) for query, mask in zip(queries, masks, strict=True)]
    for index, query in enumerate(queries):
        while query and query[-1] == padding:
            query.pop()
        queries[index] = query = list(itertools.dropwhile(lambda token: token == padding, query))
        if not query:
            raise ValueError(f"query {index} is empty: it needs at least one token to start from")
    return queries


def _rows(tokenized_query: Any, name: str) -> list[list[int]]:
    """The rows of integers in any form."""
    if isinstance(tokenized_query, torch.Tensor | np.ndarray):
        if tokenized_query.ndim not in (1, 2):
            raise ValueError(f"a tensor of queries has 1 or 2 dimensions, got shape {tuple(tokenized_query.shape)}")
        tokenized_query = [tokenized_query] if tokenized_query.ndim == 1 and len(tokenized_query) else list(tokenized_query)
    if not isinstance(tokenized_query, Sequence) or isinstance(tokenized_query, str):
        raise ValueError(
            f"{name} must hold token ids (a list, a tensor, or a list of those), got {type(tokenized_query).__name__}"
        )
    rows = list(tokenized_query)
    if not rows:
        raise ValueError(f"{name} is empty: nothing to generate for")
    if all(isinstance(item, int | np.integer) or getattr(item, "ndim", None) == 0 for item in rows):
        rows = [rows]
    return [_row(index, row) for index, row in enumerate(rows)]


def _row(index: int, row: Any) -> list[int]:
    """One query as a list of ints; a batch of one is taken for it, as TRL did."""
    array = row.cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row)
    if array.size == 0:
        return []
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"query {index} must be a list of integer token ids, got {array.dtype} of shape {array.shape}")
    return [int(token) for token in array]
