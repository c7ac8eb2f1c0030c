"""Token ids as texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast


def decoded(
    tokenizer: Any, prompts: Sequence[Sequence[int]], token_ids: np.ndarray, lengths: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """Prompts [P] and responses [P, N] as text without special tokens.

    A response is decoded behind its prompt, so that tokenizers which mark word starts keep the space between the two. A prompt
    that ends within a character leaves all of that character to the responses: joined, the two are the decoded whole.

    Args:
        tokenizer: of transformers.
        prompts: token ids of each.
        token_ids: [P, N, T].
        lengths: [P, N], how many of the T are the response.
    """
    # Bytes that are no character yet are decoded as U+FFFD.
    prompt_texts = [text.rstrip("\ufffd") for text in texts_of(tokenizer, [list(prompt) for prompt in prompts])]
    responses = np.empty(lengths.shape, dtype=object)
    for p, (prompt, prompt_text) in enumerate(zip(prompts, prompt_texts, strict=True)):
        rows = [row[:length].tolist() for row, length in zip(token_ids[p], lengths[p], strict=True)]
        for c, text in enumerate(texts_of(tokenizer, [list(prompt) + row for row in rows])):
            if text.startswith(prompt_text):
                responses[p, c] = text[len(prompt_text) :]
            else:  # a character whose bytes lie on both sides of the boundary
                responses[p, c] = tokenizer.decode(rows[c], skip_special_tokens=True)
    return prompt_texts, responses


def texts_of(tokenizer: Any, rows: Sequence[list[int]]) -> list[str]:
    """Every row of token ids as text without special tokens: `tokenizer.batch_decode`, at half its time where it can be.

    That decodes row by row, and looks at the type of every token first. The Rust library behind it takes all rows at once.
    """
    kind = type(tokenizer)
    own = (getattr(kind, name, None) is not getattr(PreTrainedTokenizerFast, name) for name in ("decode", "_decode"))
    if any(own) or tokenizer.clean_up_tokenization_spaces:
        texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
    else:
        texts = tokenizer.backend_tokenizer.decode_batch(rows, skip_special_tokens=True)
    return texts
