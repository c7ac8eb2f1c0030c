"""Prompts in every form in which users have them, as rows of token ids: one reading for all that draws."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

#: Entries of an encoding beside `input_ids` and `attention_mask`; none changes what the prompt is.
_BESIDE = frozenset(
    {"token_type_ids", "special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "position_ids"}
)
Rows = list[list[int]]


def prompt_token_ids(tokenizer: Any, prompts: Any, attention_mask: Any = None, name: str = "prompts") -> Rows:
    """Token ids of every prompt, without padding.

    Forms: texts; lists of chat messages, which are templated so that an answer follows; token ids as a list, a tensor or an
    array of one or two dimensions, or a list of those; what `tokenizer(...)` and `apply_chat_template` return, and dicts of
    `input_ids` and `attention_mask`. A list of numbers, or of messages, is one prompt.

    Where there is a mask, it says what is padding. Otherwise the tokenizer's padding token is left out on both sides, unless
    it also begins or ends texts: then rows of one length, some of which begin or end with it, are refused.

    Args:
        tokenizer: of transformers.
        prompts: in any of the forms.
        attention_mask: 1 where a prompt has a token and 0 where it has padding, in the same form.
        name: of the argument, for messages.

    Raises:
        ValueError: no prompt, an empty one, another form, token ids or a mask that are none, padding that cannot be told from
            an end of text.
    """
    if isinstance(prompts, Mapping):
        prompts, attention_mask = _of_encoding(prompts, attention_mask, name)
    texts = None if isinstance(prompts, str) else _as_texts(tokenizer, prompts)
    if texts is not None:
        if attention_mask is not None:
            raise ValueError(f"attention_mask says where token ids are padded, but {name} are texts")
        return _not_empty(texts, name)
    special = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    padding = tokenizer.pad_token_id
    if attention_mask is None and padding is not None and padding in special:
        _refuse_ambiguous(prompts, padding, name)
        padding = None
    return query_token_ids(prompts, attention_mask, padding, name)


def query_token_ids(
    tokenized_query: Any, attention_mask: Any = None, padding: int | None = None, name: str = "tokenized_query"
) -> Rows:
    """Token ids of every query, from any form of token ids, without their padding.

    >>> query_token_ids([1, 2]), query_token_ids(torch.tensor([[1, 2], [3, 4]]))
    ([[1, 2]], [[1, 2], [3, 4]])
    >>> query_token_ids(torch.tensor([[0, 1], [3, 4]]), padding=0)
    [[1], [3, 4]]

    Args:
        tokenized_query: token ids.
        attention_mask: 1 where a query has a token, in any of the same forms: the others are left out.
        padding: a token that is never text: it is left out on both sides of a query, where no mask says so.
        name: of the argument, for messages.

    Raises:
        ValueError: no query, an empty one, another form, or a mask of another shape.
    """
    queries = _rows(tokenized_query, name)
    if attention_mask is not None:
        masks = _rows(_whole_mask(attention_mask), "attention_mask")
        if [len(mask) for mask in masks] != [len(query) for query in queries]:
            raise ValueError(f"attention_mask must have a number for every token of {name}, and no other")
        if not {number for mask in masks for number in mask} <= {0, 1}:
            raise ValueError("attention_mask must hold 1 where there is a token and 0 where there is padding")
        queries = [list(itertools.compress(query, mask)) for query, mask in zip(queries, masks, strict=True)]
    elif padding is not None:
        queries = [_stripped(query, padding) for query in queries]
    return _not_empty(queries, name)


def _of_encoding(encoding: Mapping[str, Any], mask: Any, name: str) -> tuple[Any, Any]:
    """Token ids and mask in what a tokenizer returns."""
    if "input_ids" not in encoding:
        raise ValueError(
            f"{name} is a mapping of {', '.join(map(str, encoding))}: one with input_ids is read; wrap a message in a list"
        )
    unknown = sorted(set(encoding) - {"input_ids", "attention_mask"} - _BESIDE)
    if unknown:
        raise ValueError(f"{name} holds {unknown[0]!r}, which is not read: pass input_ids and attention_mask")
    return encoding["input_ids"], encoding.get("attention_mask") if mask is None else mask


def _as_texts(tokenizer: Any, prompts: Any) -> Rows | None:
    """Token ids of texts and chats; None where the prompts are token ids."""
    if not isinstance(prompts, Sequence) or not prompts:
        return None
    if all(isinstance(item, Mapping) for item in prompts):
        if all("input_ids" in item for item in prompts):  # one encoding a prompt
            return [query_token_ids(*_of_encoding(item, None, "prompts"))[0] for item in prompts]
        return [_templated(tokenizer, prompts)]
    if not any(isinstance(item, str) or _is_chat(item) for item in prompts):
        return None
    return [
        text_token_ids(tokenizer, item)
        if isinstance(item, str)
        else _templated(tokenizer, item)
        if _is_chat(item)
        else query_token_ids(item)[0]
        for item in prompts
    ]


def _is_chat(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and all(isinstance(message, Mapping) for message in prompt)


def _templated(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    for index, message in enumerate(messages):
        if "role" not in message:
            raise ValueError(f"message {index} of a chat has no role: it holds {', '.join(map(str, message)) or 'nothing'}")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template, so lists of messages cannot be read: pass texts")
    found = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in found]


def text_token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text. What begins with the tokenizer's beginning of text already, as a chat template's, gets no other."""
    ids: list[int] = list(tokenizer(text)["input_ids"])
    begin = tokenizer.bos_token_id
    again = begin is not None and ids[:2] == [begin, begin] and text.lstrip().startswith(tokenizer.bos_token)
    return ids[1:] if again else ids


def _refuse_ambiguous(prompts: Any, padding: int, name: str) -> None:
    """Refuse rows of one length, as tensors have them, some of which begin or end with a token that pads and ends texts."""
    if not (isinstance(prompts, torch.Tensor | np.ndarray) and prompts.ndim == 2 and len(prompts) > 1):
        return
    rows = _rows(prompts, name)
    for side in (0, -1):
        at_edge = [row[side] == padding for row in rows if row]
        if any(at_edge) and not all(at_edge):
            raise ValueError(
                f"{name} is a tensor in which row {at_edge.index(True)} {'ends' if side else 'begins'} with token {padding}, "
                "which both pads and delimits texts: pass attention_mask, or lists without padding"
            )


def _stripped(query: list[int], padding: int) -> list[int]:
    end = len(query)
    while end and query[end - 1] == padding:
        end -= 1
    return list(itertools.dropwhile(lambda token: token == padding, query[:end]))


def _not_empty(rows: Rows, name: str) -> Rows:
    for index, row in enumerate(rows):
        if not row:
            raise ValueError(f"{_one(name)} {index} is empty: it needs at least one token to start from")
    return rows


def _one(name: str) -> str:
    return {"prompts": "prompt", "tokenized_query": "query"}.get(name, name)


def _whole_mask(mask: Any) -> Any:
    """A mask of truth values or of numbers with a point as whole numbers; what is neither 0 nor 1 becomes 2, which is none."""
    if isinstance(mask, torch.Tensor):
        mask = mask.detach().cpu().numpy()
    if isinstance(mask, np.ndarray):
        return np.where((mask == 0) | (mask == 1), mask, 2).astype(np.int64)
    if isinstance(mask, Sequence) and not isinstance(mask, str):
        return [_whole_mask(part) for part in mask]
    return 2 if mask not in (0, 1) else int(mask)


def _rows(tokenized_query: Any, name: str) -> Rows:
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
    return [_row(index, row, name) for index, row in enumerate(rows)]


def _row(index: int, row: Any, name: str) -> list[int]:
    """One query as a list of ints; a batch of one is taken for it, as TRL did."""
    array = row.cpu().numpy() if isinstance(row, torch.Tensor) else np.asarray(row)
    if array.size == 0:
        return []
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        of = "" if name == "attention_mask" else " token ids"
        raise ValueError(f"{_one(name)} {index} must be a list of integer{of}, got {array.dtype} of shape {array.shape}")
    return [int(token) for token in array]
