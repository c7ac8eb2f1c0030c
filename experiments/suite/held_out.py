"""How well a language model predicts reviews that it has never seen, per token and per byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from suite.corpus import Corpus
from suite.imdb import Review


@dataclass(frozen=True)
class Perplexity:
    """exp(mean negative log-likelihood): `per_token` compares models of one tokenizer, `per_byte` those of several.

    Attributes:
        per_token: over `tokens` predicted tokens.
        per_byte: over the `bytes` of UTF-8 text that those tokens stand for.
    """

    per_token: float
    per_byte: float
    tokens: int
    bytes: int


@torch.inference_mode()
def held_out_perplexity(
    model: Any, tokenizer: Any, reviews: Sequence[Review], context: int, windows: int, batch_size: int = 4
) -> Perplexity:
    """Perplexity over at most `windows` windows of `context` tokens, spread evenly over the reviews.

    The first token of a window is read and not predicted. The end of a review is predicted, and has no bytes.

    Raises:
        ValueError: the reviews do not fill a window.
    """
    tokens = Corpus.of(reviews, tokenizer).tokens
    tiles = len(tokens) // context
    if tiles == 0:
        raise ValueError(f"{len(tokens)} tokens of held-out reviews do not fill a window of {context}")
    count = min(windows, tiles)
    chosen = tokens[: tiles * context].view(tiles, context)[torch.arange(count) * tiles // count]
    nats = 0.0
    for batch in chosen.to(model.device).split(batch_size):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        nats += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    predicted = count * (context - 1)
    texts = tokenizer.batch_decode(chosen[:, 1:], skip_special_tokens=True)
    length = sum(len(text.encode()) for text in texts)
    return Perplexity(math.exp(nats / predicted), math.exp(nats / length), predicted, length)
