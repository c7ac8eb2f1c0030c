"""Drawing a few candidates at a time, and looking after each few whether a prompt needs more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import GenerationConfig

from bon.adaptive.savings import Savings
from bon.candidates import Candidates, stacked
from bon.generation.generate import generate_candidates, response_limits, token_ids_of
from bon.generation.options import resolve_generation_config
from bon.rewards import Reward, RewardError, score_candidates
from bon.selection import BestOfN, scores_of, top_k
from bon.wrappers import unwrapped

#: The name of the score column that drawing fills and selects by.
SCORE = "proxy"


@dataclass(frozen=True)
class Stopped:
    """What was drawn until stopping.

    Attributes:
        best: [P, 1] the highest-scored candidate of every prompt, `scores["proxy"]` filled.
        drawn: [P] candidates drawn.
        tokens: [P] response tokens drawn.
    """

    best: Candidates
    drawn: NDArray[np.int64]
    tokens: NDArray[np.int64]

    def savings(self, full: Candidates) -> Savings:
        """Against best-of-n from the pool that the same arguments draw without stopping, scored as "proxy"."""
        return Savings.against(full, self.best, self.tokens, SCORE)


def draw_in_looks(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_candidates: int,
    reward: Reward,
    stops: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
    *,
    minimum: int,
    every: int,
    seed: int = 0,
    generation_config: GenerationConfig | None = None,
    response_lengths: Sequence[int] | None = None,
    prompt_ids: Sequence[int] | None = None,
    max_batch_tokens: int | None = None,
    progress: bool = False,
    **generation_kwargs: Any,
) -> Stopped:
    """Draw and score `minimum` candidates of every prompt, then `every` more of those for which it does not stop.

    Args:
        model: as in `draw_while_worth`, like all that is not described here.
        stops: scores so far of some prompts, in the order of drawing [R, m] -> whether each prompt is done [R].
        minimum: candidates drawn before the first look.
        every: candidates drawn between two looks.

    Raises:
        ValueError: as `generate_candidates`.
        RewardError: as `draw_while_worth`.
    """
    start = time.perf_counter()
    prompt_tokens = token_ids_of(tokenizer, prompts)
    config = resolve_generation_config(unwrapped(model), tokenizer, generation_config, generation_kwargs)
    limits = response_limits(config, prompt_tokens, response_lengths)
    ids = list(range(len(prompt_tokens))) if prompt_ids is None else list(prompt_ids)
    if len(ids) != len(prompt_tokens):
        raise ValueError(f"{len(ids)} prompt_ids for {len(prompt_tokens)} prompts")
    going = np.arange(len(prompt_tokens))
    scores = np.zeros((len(going), max_candidates))
    drawn, tokens = np.zeros(len(going), dtype=np.int64), np.zeros(len(going), dtype=np.int64)
    best: Candidates | None = None
    done: list[tuple[NDArray[np.int_], Candidates]] = []
    count = 0
    while len(going):
        more = min(every if count else minimum, max_candidates - count)
        part = generate_candidates(
            model,
            tokenizer,
            [prompt_tokens[p] for p in going],
            more,
            seed=seed,
            generation_config=generation_config,
            response_lengths=[limits[p] for p in going],
            prompt_ids=[ids[p] for p in going],
            first_candidate=count,
            max_batch_tokens=max_batch_tokens,
            progress=progress,
            **generation_kwargs,
        )
        try:
            part = score_candidates(part, progress=progress, **{SCORE: reward})
        except RewardError as error:
            error.candidates = part if best is None else best.extended(part)
            raise
        scores[going, count : count + more] = scores_of(part, SCORE)
        tokens[going] += part.lengths.sum(axis=1, dtype=np.int64)
        count += more
        drawn[going] = count
        best = top_k(part if best is None else best.extended(part), 1, SCORE)
        stop = stops(scores[going, :count]) | (count == max_candidates)
        done.append((going[stop], best.rows(stop)))
        going, best = going[~stop], best.rows(~stop)
    order = np.argsort(np.concatenate([positions for positions, _ in done]))
    together = stacked([pool for _, pool in done]).rows(order)
    metadata = {**together.metadata, "tokens": int(tokens.sum()), "seconds": time.perf_counter() - start}
    return Stopped(replace(together, metadata=metadata), drawn, tokens)


def replay(full: Candidates, drawn: NDArray[np.int64], by: str = SCORE) -> Stopped:
    """What stopping after the first `drawn` [P] candidates would have returned, read off a scored pool."""
    inside = np.arange(full.num_candidates) < drawn[:, None]
    best = full.with_scores(**{by: np.where(inside, scores_of(full, by), -np.inf)}).select(BestOfN(by))
    return Stopped(best, drawn, np.where(inside, full.lengths, 0).sum(axis=1, dtype=np.int64))
