"""How good the embedded models are on held-out reviews, measured on the files as they are shipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from suite.corpus import Corpus
from suite.imdb import Review
from suite.pretraining import language_loss


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


CROPS = (24, 128)


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
