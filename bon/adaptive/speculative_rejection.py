"""Speculative rejection: score responses while they are being drawn and give up the worst (Sun et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import GenerationConfig

from bon.adaptive.savings import Savings
from bon.candidates import Candidates
from bon.generation.detokenize import decoded
from bon.generation.generate import check_context, draw, response_limits
from bon.generation.options import resolve_generation_config
from bon.generation.queries import prompt_token_ids
from bon.generation.request import SamplingRequest
from bon.generation.resume import draw_on, ended
from bon.rewards import Reward, RewardError, checked_scores
from bon.selection import scores_of
from bon.wrappers import unwrapped

#: The name of the score column that rejection fills and selects by.
SCORE = "proxy"
#: The pool at a length (None: its end) and which responses are wanted -> it, and which responses have ended [P, N].
_Grow = Callable[[int | None, NDArray[np.bool_]], tuple[Candidates, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Rejection:
    """What speculative rejection drew and kept.

    Attributes:
        candidates: [P, N] every response as far as it was drawn; `scores["proxy"]` is the last score each was given, of the
            whole response for survivors and of the part drawn for the others.
        survived: [P, N] which responses were drawn to their end; at least one a prompt.
    """

    candidates: Candidates
    survived: NDArray[np.bool_]

    @property
    def best(self) -> Candidates:
        """The highest-scored survivor of every prompt [P, 1]; of equals the one drawn first."""
        scores = np.where(self.survived, scores_of(self.candidates, SCORE), -np.inf)
        return self.candidates.take(scores.argmax(axis=1)[:, None])

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Response tokens drawn for each prompt [P]. Prefixes read again at the start of a stage are not among them."""
        return self.candidates.lengths.sum(axis=1, dtype=np.int64)

    def savings(self, full: Candidates) -> Savings:
        """Against best-of-n from the pool that the same arguments draw without rejection, scored as "proxy"."""
        return Savings.against(full, self.best, self.tokens, SCORE)


def speculative_rejection(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    num_candidates: int,
    reward: Reward,
    *,
    lengths: Sequence[int],
    alpha: float = 0.5,
    seed: int = 0,
    generation_config: GenerationConfig | None = None,
    response_lengths: Sequence[int] | None = None,
    prompt_ids: Sequence[int] | None = None,
    max_batch_tokens: int | None = None,
    progress: bool = False,
    **generation_kwargs: Any,
) -> Rejection:
    """Best-of-n that stops drawing the responses that look worst on the way.

    At each of `lengths`, what is drawn so far is scored, prompt and part of the response as one text, and of each prompt's
    responses those below the alpha-quantile of their scores are given up. Nothing is drawn in their place. A response that
    has ended costs nothing more and stays in the choice; its score counts in the quantile (the paper drops it like others).

    The survivors are responses of the pool that `generate_candidates` draws from the same arguments: candidate for
    candidate the same uniform numbers, so tokens differ only by the rounding that `continue_candidates` describes. With
    alpha = 0 the result is plain best-of-n. It loses nothing where partial scores rank like final ones, and is not to be
    used where a reward judges beginnings badly: measure with `Rejection.savings` or, without drawing twice, with
    `replay_rejection`.

    Source: Sun, Haider, Zhang, Yang, Qiu, Yin, Wang, Bartlett and Zanette 2024, Fast best-of-N decoding via speculative
    rejection, NeurIPS, arXiv:2410.20290. There a GPU's memory decides when to cut; here `lengths` do, so that the result
    does not depend on the machine.

    Args:
        model: as in `generate_candidates`, like all that is not described here.
        tokenizer: its tokenizer.
        prompts: P prompts, in the forms of `generate_candidates`.
        num_candidates: N, responses begun for every prompt.
        reward: list of texts -> one finite number each; called with parts of responses too.
        lengths: response tokens at which to cut, ascending.
        alpha: share given up at each cut, in [0, 1).
        seed: non-negative integer.
        generation_config: transformers' options.
        response_lengths: the most tokens of each prompt's responses [P].
        prompt_ids: the identity of each prompt [P] in the random streams.
        max_batch_tokens: prompt and response tokens in one batch.
        progress: show a bar for the first stage on a terminal.
        **generation_kwargs: single options of GenerationConfig.

    Raises:
        ValueError: as `generate_candidates`; lengths that do not ascend from 1; alpha outside [0, 1); `forced_eos_token_id`.
        RewardError: the reward failed; what had been drawn is its `candidates`.
    """
    lengths = _checked_cuts(lengths, alpha)
    bare = unwrapped(model)
    config = resolve_generation_config(bare, tokenizer, generation_config, generation_kwargs)
    if config.forced_eos_token_id is not None:
        raise ValueError("forced_eos_token_id forces the end of every stage: responses drawn in stages cannot honour it")
    prompt_tokens = prompt_token_ids(tokenizer, prompts)
    limits = np.array(response_limits(config, prompt_tokens, response_lengths))
    check_context(bare, prompt_tokens, limits.tolist())
    request = SamplingRequest(
        seed, generation_config, None, prompt_ids, 0, max_batch_tokens, False, progress, generation_kwargs
    )
    drawn: Candidates | None = None

    def grow(length: int | None, wanted: NDArray[np.bool_]) -> tuple[Candidates, NDArray[np.bool_]]:
        nonlocal drawn
        until = limits if length is None else np.minimum(limits, length)
        stage = request.of(response_lengths=until.tolist())
        if drawn is None:
            drawn = draw(model, tokenizer, prompt_tokens, num_candidates, stage)
        else:
            drawn = draw_on(model, tokenizer, drawn, stage, wanted)
        return drawn, ended(drawn, config) | (drawn.lengths >= limits[:, None])

    return _reject(grow, (len(prompt_tokens), num_candidates), reward, lengths, alpha)


def replay_rejection(
    full: Candidates, tokenizer: Any, reward: Reward, *, lengths: Sequence[int], alpha: float = 0.5
) -> Rejection:
    """What `speculative_rejection` would have drawn and kept, read off a pool that was drawn whole.

    For choosing `lengths` and `alpha`: nothing is drawn, so `replay_rejection(...).savings(full)` costs only the scoring of
    the parts. `lengths`, `alpha`, `reward` and errors as there. The log-probabilities of responses that were given up are
    NaN: a pool does not hold those of parts.
    """
    lengths = _checked_cuts(lengths, alpha)
    reached = np.zeros_like(full.lengths)

    def grow(length: int | None, wanted: NDArray[np.bool_]) -> tuple[Candidates, NDArray[np.bool_]]:
        nonlocal reached
        longest = full.token_ids.shape[2] if length is None else length
        reached = np.where(wanted, np.minimum(full.lengths, longest), reached)
        texts = decoded(tokenizer, full.prompt_token_ids, full.token_ids, reached)[1]
        cut = np.where(reached < full.lengths, np.nan, 0.0)
        part = Candidates(
            prompts=full.prompts,
            prompt_token_ids=full.prompt_token_ids,
            texts=texts,
            token_ids=full.token_ids,
            lengths=reached,
            logprobs=full.logprobs + cut,
            raw_logprobs=full.raw_logprobs + cut,
            metadata={**full.metadata, "tokens": int(reached.sum())},
        )
        return part, full.lengths <= longest

    return _reject(grow, full.lengths.shape, reward, lengths, alpha)


def _reject(grow: _Grow, shape: tuple[int, int], reward: Reward, lengths: Sequence[int], alpha: float) -> Rejection:
    survived, scored_whole = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    scores = np.zeros(shape)
    for length in (*lengths, None):
        pool, over = grow(length, survived)
        stale = survived & ~scored_whole
        texts = pool.full_texts
        if stale.any():
            try:
                cells = np.argwhere(stale).tolist()
                scores[stale] = checked_scores(
                    reward,
                    [texts[p][c] for p, c in cells],
                    prompts=[pool.prompts[p] for p, _ in cells],
                    responses=[pool.texts[p, c] for p, c in cells],
                )
            except RewardError as error:
                error.candidates = pool
                raise
        scored_whole = over
        if length is not None:
            cutoff = np.nanquantile(np.where(survived, scores, np.nan), alpha, axis=1, keepdims=True)
            survived &= over | (scores >= cutoff)
    return Rejection(pool.with_scores(**{SCORE: scores}), survived)


def _checked_cuts(lengths: Sequence[int], alpha: float) -> list[int]:
    lengths = [int(length) for length in lengths]
    if not lengths or lengths[0] < 1 or any(b <= a for a, b in pairwise(lengths)):
        raise ValueError(f"lengths must ascend from at least 1, got {lengths}")
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
    return lengths
