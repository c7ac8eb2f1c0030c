"""The forms in which users of TRL pass tokenized queries, and the one that everything else takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def query_token_ids(tokenized_query: Any) -> list[list[int]]:
    """Token ids of every query, from any of the forms that `BestOfNSampler.generate` takes.

    >>> query_token_ids([1, 2]), query_token_ids(torch.tensor([[1, 2], [3, 4]]))
    ([[1, 2]], [[1, 2], [3, 4]])

    Raises:
        ValueError: no query, an empty one, or another form.
    """
    if isinstance(tokenized_query, torch.Tensor | np.ndarray):
        if tokenized_query.ndim not in (1, 2):
            raise ValueError(f"a tensor of queries has 1 or 2 dimensions, got shape {tuple(tokenized_query.shape)}")
        tokenized_query = [tokenized_query] if tokenized_query.ndim == 1 and len(tokenized_query) else list(tokenized_query)
    if not isinstance(tokenized_query, Sequence) or isinstance(tokenized_query, str):
        raise ValueError(
            f"tokenized_query must hold token ids (a list, a tensor, or a list of those), got {type(tokenized_query).__name__}"
        )
    rows = list(tokenized_query)
    if not rows:
        raise ValueError("tokenized_query is empty: nothing to generate for")
    if all(isinstance(item, int | np.integer) or getattr(item, "ndim", None) == 0 for item in rows):
        rows = [rows]
    queries = [_token_row(index, row) for index, row in enumerate(rows)]
    for index, query in enumerate(queries):
        if not query:
            raise ValueError(f"query {index} is empty: it needs at least one token to start from")
    return queries


def _token_row(index: int, row: Any) -> list[int]:
    """One query as a list of ints."""
    array = row.cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row)
    if array.size == 0:
        return []
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"query {index} must be a list of integer token ids, got {array.dtype} of shape {array.shape}")
    return [int(token) for token in array]
