"""Optimal stopping: draw candidates for a prompt only as long as another one is worth what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transformers import GenerationConfig

from bon.adaptive.looks import SCORE, Stopped, draw_in_looks, replay
from bon.candidates import Candidates
from bon.generation.request import SamplingRequest
from bon.optional import scipy_part
from bon.rewards import Reward
from bon.selection import scores_of

#: Fewer draws leave the predictive distribution without a mean.
_FEWEST = 3


def expected_improvement(scores: ArrayLike) -> NDArray[np.float64]:
    """How much the next draw is expected to raise the best score, from the m scores drawn so far: [..., m] -> [...].

    E[max(next - best, 0)], the next score having a Student t distribution with m - 1 degrees of freedom, the mean of the
    scores and scale s sqrt(1 + 1/m): what normal scores of unknown mean and variance predict under the prior 1 / variance
    (Raiffa and Schlaifer 1961). With z = (best - mean) / scale, v = m - 1, and f and F the density and distribution of t,

        scale * (f(z) (v + z^2) / (v - 1) - z (1 - F(z))).

    0 where all scores are equal. Loose where scores are not near normal: too small for a heavy upper tail, too large for a
    bounded score near its bound.

    Raises:
        ValueError: fewer than 3 scores, or one that is not finite.

    >>> round(float(expected_improvement([0.0, 1.0, 2.0, 3.0])), 4)
    0.3038
    """
    student = scipy_part("stats", "rules of stopping").t

    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim == 0 or scores.shape[-1] < _FEWEST or not np.isfinite(scores).all():
        raise ValueError(f"need at least {_FEWEST} finite scores along the last axis, got shape {scores.shape}")
    count = scores.shape[-1]
    scale = scores.std(axis=-1, ddof=1) * np.sqrt(1 + 1 / count)
    above = scores.max(axis=-1) - scores.mean(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = above / scale
    freedom = count - 1
    gain = student.pdf(z, freedom) * (freedom + z**2) / (freedom - 1) - z * student.sf(z, freedom)
    return np.where(scale > 0, scale * gain, 0.0)


def stopping_counts(scores: ArrayLike, cost: float, *, minimum: int = 8, every: int = 1) -> NDArray[np.int64]:
    """After how many candidates the rule of `draw_while_worth` stops, from the scores in the order of drawing: [P, N] -> [P].

    Args:
        scores: [P, N].
        cost: of one candidate, in units of the score.
        minimum: candidates drawn before the first look.
        every: candidates drawn between two looks.

    Returns:
        Counts in minimum..N; N where it never stops before.

    Raises:
        ValueError: a cost that is not positive, `minimum` below 3 or above N, `every` below 1.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2:
        raise ValueError(f"scores must be [prompts, candidates], got shape {scores.shape}")
    total = scores.shape[1]
    _check_rule(cost, minimum, every, total)
    counts = np.full(len(scores), total, dtype=np.int64)
    for count in reversed(range(minimum, total, every)):
        counts[expected_improvement(scores[:, :count]) <= cost] = count
    return counts


def draw_while_worth(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_candidates: int,
    reward: Reward,
    *,
    cost: float,
    minimum: int = 8,
    every: int = 8,
    seed: int = 0,
    generation_config: GenerationConfig | None = None,
    response_lengths: Sequence[int] | None = None,
    prompt_ids: Sequence[int] | None = None,
    max_batch_tokens: int | None = None,
    progress: bool = False,
    **generation_kwargs: Any,
) -> Stopped:
    """Best-of-n with an n for each prompt: draw until the next candidate is expected to add no more than it costs.

    Opening equal boxes with a price, one keeps opening while E[max(next - best, 0)] > cost, that is, while the best is below
    the reservation value (Weitzman 1979; `bon.estimators.thresholds.excess_threshold` is that value for known scores). For
    language models: Kalayci, Raman and Dughmi 2025, Optimal stopping vs best-of-N for inference time optimization,
    arXiv:2510.01394.
    Here the distribution is not known: `expected_improvement` predicts the next score from those drawn so far. Looking one
    draw ahead is optimal for a known distribution; for a learnt one it stops somewhat early, which `minimum` tempers.

    Candidate c of a prompt is the one that `generate_candidates` draws from the same arguments, up to the rounding described
    there: the result is that of the first `drawn` candidates of the full pool.

    Args:
        model: as in `generate_candidates`, like all that is not described here.
        tokenizer: its tokenizer.
        prompts: P prompts, in the forms of `generate_candidates`.
        max_candidates: candidates after which to stop in any case.
        reward: list of texts -> one finite number each.
        cost: of one candidate, in units of the reward, > 0.
        minimum: candidates drawn before the first look, at least 3.
        every: candidates drawn between two looks; few save more candidates, many make better use of a batch.
        seed: non-negative integer.
        generation_config: transformers' options.
        response_lengths: the most tokens of each prompt's responses [P].
        prompt_ids: the identity of each prompt [P] in the random streams.
        max_batch_tokens: prompt and response tokens in one batch.
        progress: show bars on a terminal.
        **generation_kwargs: single options of GenerationConfig.

    Raises:
        ValueError: as `generate_candidates` and `stopping_counts`.
        RewardError: the reward failed; its `candidates` are those of that look, each prompt's best before them in front.
    """
    _check_rule(cost, minimum, every, max_candidates)
    scipy_part("stats", "rules of stopping")  # before anything is drawn
    return draw_in_looks(
        model,
        tokenizer,
        prompts,
        max_candidates,
        reward,
        lambda scores: expected_improvement(scores) <= cost,
        SamplingRequest(
            seed, generation_config, response_lengths, prompt_ids, 0, max_batch_tokens, False, progress, generation_kwargs
        ),
        minimum=minimum,
        every=every,
    )


def replay_stopping(full: Candidates, *, cost: float, minimum: int = 8, every: int = 8, by: str = SCORE) -> Stopped:
    """What `draw_while_worth` would have drawn, read off a scored pool that was drawn whole: for choosing the cost.

    Arguments and errors as there.
    """
    return replay(full, stopping_counts(scores_of(full, by), cost, minimum=minimum, every=every), by)


def _check_rule(cost: float, minimum: int, every: int, total: int) -> None:
    if not (np.isfinite(cost) and cost > 0):
        raise ValueError(f"cost must be finite and > 0, got {cost}; best-of-n without a cost never stops early")
    if not _FEWEST <= minimum <= total:
        raise ValueError(f"minimum must lie in {_FEWEST}..{total} (the most candidates), got {minimum}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
