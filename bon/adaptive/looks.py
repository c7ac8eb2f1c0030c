"""Drawing a few candidates at a time, and looking after each few whether a prompt needs more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.adaptive.savings import Savings
from bon.candidates import Candidates, stacked
from bon.generation.generate import draw, response_limits
from bon.generation.options import resolve_generation_config
from bon.generation.queries import prompt_token_ids
from bon.generation.request import SamplingRequest
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
    request: SamplingRequest,
    *,
    minimum: int,
    every: int,
) -> Stopped:
    """Draw and score `minimum` candidates of every prompt, then `every` more of those for which it does not stop.

    Args:
        model: as in `draw_while_worth`, like all that is not described here.
        stops: scores so far of some prompts, in the order of drawing [R, m] -> whether each prompt is done [R].
        request: how candidates are drawn.
        minimum: candidates drawn before the first look.
        every: candidates drawn between two looks.

    Raises:
        ValueError: as `generate_candidates`.
        RewardError: as `draw_while_worth`.
    """
    start = time.perf_counter()
    prompt_tokens = prompt_token_ids(tokenizer, prompts)
    config = resolve_generation_config(unwrapped(model), tokenizer, request.generation_config, dict(request.options))
    limits = response_limits(config, prompt_tokens, request.response_lengths)
    ids = request.identities(len(prompt_tokens))
    going = np.arange(len(prompt_tokens))
    scores = np.zeros((len(going), max_candidates))
    drawn, tokens = np.zeros(len(going), dtype=np.int64), np.zeros(len(going), dtype=np.int64)
    best: Candidates | None = None
    done: list[tuple[NDArray[np.int_], Candidates]] = []
    count = 0
    while len(going):
        more = min(every if count else minimum, max_candidates - count)
        part = draw(
            model,
            tokenizer,
            [prompt_tokens[p] for p in going],
            more,
            request.of(response_lengths=[limits[p] for p in going], prompt_ids=[ids[p] for p in going], first_candidate=count),
        )
        try:
            rewards: dict[str, Any] = {SCORE: reward}
            part = score_candidates(part, progress=request.progress, **rewards)
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
