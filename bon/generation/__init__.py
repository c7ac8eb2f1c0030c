"""Prompts to a pool of candidates: token ids, lengths and log-probabilities, the same whatever they are batched with."""

from typing import TYPE_CHECKING

from bon.lazy import lazily

if TYPE_CHECKING:
    from bon.generation.generate import generate_candidates
else:
    __getattr__, __dir__ = lazily(__name__, {"generate_candidates": "bon.generation.generate"})

__all__ = ["generate_candidates"]
