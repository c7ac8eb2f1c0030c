"""Texts as tokens that fit into a classifier: the prompt gives way from its beginning, then the response from its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Spans:
    """Which characters of a text are whose.

    Attributes:
        begin: first character that may be cut with the prompt.
        response: first character of the response, behind the prompt.
        end: the character behind the response.
    """

    begin: int
    response: int
    end: int


@dataclass(frozen=True)
class Row:
    """Tokens of a text as the classifier reads them.

    Attributes:
        ids: token ids.
        prompt_cut: tokens of the prompt that are not among them.
        response_cut: tokens of the response that are not.
    """

    ids: list[int]
    prompt_cut: int = 0
    response_cut: int = 0


def token_rows(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans], most: int | None, special: bool = True
) -> list[Row]:
    """Return the tokens of every text, no more than `most`.

    Special tokens, and what stands outside the spans (a template's headers), are always kept.

    Args:
        tokenizer: of the classifier.
        texts: whole texts.
        spans: of each text.
        most: tokens that the classifier can read, None for any number.
        special: add the tokenizer's special tokens.

    Raises:
        ValueError: nothing is left of a response.
    """
    if not texts:
        return []
    fast = getattr(tokenizer, "is_fast", False)
    encoded = tokenizer(
        list(texts),
        add_special_tokens=special,
        return_special_tokens_mask=True,
        return_offsets_mapping=fast,
        verbose=False,
    )
    rows = []
    for index, ids in enumerate(encoded["input_ids"]):
        if most is None or len(ids) <= most:
            rows.append(Row(list(ids)))
            continue
        added = np.array(encoded["special_tokens_mask"][index], dtype=bool)
        if not special:  # those of a template are part of its text
            added = np.isin(ids, tokenizer.all_special_ids)
        if fast:
            starts, ends = np.array(encoded["offset_mapping"][index]).T
        else:
            starts, ends = _places(tokenizer, texts[index], ids, added, spans[index])
        rows.append(_cut(np.array(ids), added, starts, ends, spans[index], most, texts[index]))
    return rows


def _cut(
    ids: NDArray[np.int_],
    added: NDArray[np.bool_],
    starts: NDArray[np.int_],
    ends: NDArray[np.int_],
    span: Spans,
    most: int,
    text: str,
) -> Row:
    inside = ~added & (ends > span.begin) & (starts < span.end)
    response = np.flatnonzero(inside & (ends > span.response))
    prompt = np.flatnonzero(inside & (ends <= span.response))
    excess = len(ids) - most
    of_prompt = min(excess, len(prompt))
    of_response = excess - of_prompt
    if of_response and of_response >= len(response):
        raise ValueError(
            f"nothing of a response is left in {most} tokens, which is all that the classifier reads: "
            f"{text[span.response : span.response + 60]!r}"
        )
    keep = np.ones(len(ids), dtype=bool)
    keep[prompt[:of_prompt]] = False
    keep[response[len(response) - of_response :]] = False
    return Row(ids[keep].tolist(), of_prompt, of_response)


def _places(
    tokenizer: Any, text: str, ids: Sequence[int], added: NDArray[np.bool_], span: Spans
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First character of each token and the one behind it, where a tokenizer does not tell: right at the spans' borders."""
    borders = [
        len(tokenizer(text[:end], add_special_tokens=False)["input_ids"]) for end in (span.begin, span.response, span.end)
    ]
    place = np.cumsum(~added) - 1
    marks = np.array([span.begin, span.response, span.end, len(text) + 1])
    which = np.searchsorted(borders, place, side="right")
    ends = marks[which]
    return np.concatenate([[0], marks])[which], ends
