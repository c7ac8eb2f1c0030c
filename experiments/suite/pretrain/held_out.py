"""Quality on unseen reviews: how well language models predict them, and classifiers judge them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from suite.data.corpus import Corpus
from suite.data.imdb import Review
from suite.pretrain.embedded_models import language_loss

#: Lengths in tokens of the crops that the classifiers of the embedded models are measured on.
CROPS = (24, 128)


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


@torch.inference_mode()
def perplexity(model: GPT2LMHeadModel, corpus: Corpus, context: int) -> float:
    """Perplexity per token over non-overlapping windows of `context` tokens of the corpus."""
    tiles = len(corpus.tokens) // context
    windows = corpus.tokens[: tiles * context].view(tiles, context)
    losses = [language_loss(model(input_ids=batch).logits, batch).item() * len(batch) for batch in windows.split(16)]
    return math.exp(sum(losses) / tiles)


@torch.inference_mode()
def accuracy(model: Any, corpus: Corpus, length: int, crops: int = 4000, seed: int = 0) -> float:
    """Share of crops that a classifier with one logit judges right.

    `crops` crops of exactly `length` tokens, each from anywhere in a random review that is long enough.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = corpus.starts.diff() - 1
    long_enough = (lengths >= length).nonzero().squeeze(1)
    review = long_enough[torch.randint(len(long_enough), (crops,), generator=generator)]
    offset = (torch.rand(crops, generator=generator) * (lengths[review] - length + 1)).long()
    begin = corpus.starts[review] + offset
    tokens = corpus.tokens[begin[:, None] + torch.arange(length)]
    right = [
        ((model(input_ids=part.to(model.device)).logits[:, 0].cpu() > 0) == label).sum().item()
        for part, label in zip(tokens.split(64), corpus.labels[begin].split(64), strict=True)
    ]
    return sum(right) / crops


def measure(folder: Path, held_out: Sequence[Review], crops: int = 4000) -> dict[str, float]:
    """Held-out perplexity of the policy and accuracies of the classifiers, from the files as they are shipped."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "policy")
    corpus = Corpus.of(held_out, tokenizer)
    policy = GPT2LMHeadModel.from_pretrained(folder / "policy", dtype=torch.float32).eval()
    found = {"policy perplexity": perplexity(policy, corpus, policy.config.n_positions)}
    for name in ("proxy", "gold"):
        judge = AutoModelForSequenceClassification.from_pretrained(folder / name, dtype=torch.float32).eval()
        found.update({f"{name} accuracy, {length} tokens": accuracy(judge, corpus, length, crops) for length in CROPS})
    return found
