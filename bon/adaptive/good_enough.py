"""Stopping when a response is good enough: for verifiers and other rewards with a known scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transformers import GenerationConfig

from bon.adaptive.looks import SCORE, Stopped, draw_in_looks, replay
from bon.candidates import Candidates
from bon.checks import whole
from bon.generation.request import SamplingRequest
from bon.rewards import Reward
from bon.selection import scores_of


def counts_until(scores: ArrayLike, at_least: float, *, every: int = 1) -> NDArray[np.int64]:
    """After how many candidates `draw_until` stops, from the scores in the order of drawing: [P, N] -> [P]; N where never.

    Raises:
        ValueError: scores of another shape, a level that is not finite, or `every` below 1.

    >>> counts_until([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], at_least=1.0).tolist()
    [2, 3]
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must be [prompts, candidates] with at least one of each, got shape {scores.shape}")
    _check(at_least)
    every = whole("every", every, 1)
    reached = scores >= at_least
    first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, scores.shape[1])
    return np.minimum(-(-first // every) * every, scores.shape[1])


def draw_until(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_candidates: int,
    reward: Reward,
    *,
    at_least: float,
    every: int = 8,
    seed: int = 0,
    generation_config: GenerationConfig | None = None,
    response_lengths: Sequence[int] | None = None,
    prompt_ids: Sequence[int] | None = None,
    max_batch_tokens: int | None = None,
    progress: bool = False,
    **generation_kwargs: Any,
) -> Stopped:
    """Best-of-n with an n for each prompt: draw until a response has a score of at least so much.

    For rewards whose scale is known, as a verifier's truth values (`at_least=1`). The response returned is the
    best of the candidates drawn. A prompt without one that is good enough draws `max_candidates`; `fail_count` counts those.

    Args:
        model: as in `generate_candidates`, like all that is not described here.
        tokenizer: its tokenizer.
        prompts: P prompts, in the forms of `generate_candidates`.
        max_candidates: candidates after which to give up.
        reward: as in `score_candidates`.
        at_least: the score that is good enough.
        every: candidates drawn between two looks; few save more candidates, many make better use of a batch.
        seed: non-negative integer.
        generation_config: transformers' options.
        response_lengths: the most tokens of each prompt's responses [P].
        prompt_ids: the identity of each prompt [P] in the random streams.
        max_batch_tokens: prompt and response tokens in one batch.
        progress: show bars on a terminal.
        **generation_kwargs: single options of GenerationConfig.

    Raises:
        ValueError: as `generate_candidates`, a level that is not finite, or a count below 1.
        RewardError: as `draw_while_worth`.
    """
    _check(at_least)
    most, every = whole("max_candidates", max_candidates, 1), whole("every", every, 1)
    return draw_in_looks(
        model,
        tokenizer,
        prompts,
        most,
        reward,
        lambda scores: np.any(scores >= at_least, axis=1),
        SamplingRequest(
            seed, generation_config, response_lengths, prompt_ids, 0, max_batch_tokens, False, progress, generation_kwargs
        ),
        minimum=min(every, most),
        every=every,
    )


def replay_until(full: Candidates, *, at_least: float, every: int = 8, by: str = SCORE) -> Stopped:
    """What `draw_until` would have drawn, read off a scored pool that was drawn whole: for choosing the level.

    Arguments and errors as there.
    """
    return replay(full, counts_until(scores_of(full, by), at_least, every=every), by)


def fail_count(stopped: Stopped, at_least: float, by: str = SCORE) -> int:
    """Number of prompts without a response that is good enough."""
    return int((scores_of(stopped.best, by) < at_least).sum())


def _check(at_least: float) -> None:
    if not np.isfinite(at_least):
        raise ValueError(f"at_least must be finite, got {at_least}")
