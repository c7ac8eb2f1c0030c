"""Prompts to a pool of candidates: token ids, lengths and log-probabilities, the same whatever they are batched with."""

from bon.generation.generate import generate_candidates

__all__ = ["generate_candidates"]
