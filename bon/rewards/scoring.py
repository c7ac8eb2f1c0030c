"""A pool in, the same pool with a column of scores for every reward out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bon.candidates import Candidates
from bon.rewards.asking import Reward, ask, refuse_missing
from bon.rewards.errors import RewardError
from bon.rewards.forms import ITSELF, Judged, joined
from bon.rewards.items import Items, Message, reads
from bon.rewards.unfinished import Unfinished, check_unfinished, without_unfinished

#: Texts that a reward is asked about at once.
_AT_ONCE = 4096


def score_candidates(
    candidates: Candidates,
    *,
    on_missing: Literal["error", "exclude"] = "error",
    unfinished: Unfinished = "keep",
    penalty: float | None = None,
    chats: Sequence[Sequence[Message]] | None = None,
    progress: bool = False,
    **rewards: Reward,
) -> Candidates:
    """Return the pool with one column of scores [P, N] for every named reward.

    >>> scored = score_candidates(candidates, proxy=lambda texts: [len(t) for t in texts])    # doctest: +SKIP

    A reward is a function. It reads a list of texts, prompt and response as one; or, by the names of its arguments, any of
    `prompts`, `responses` (`completions` is TRL's word), `messages` (the conversation as a list of messages, the response
    last) and `texts`, one entry a response each. A coroutine function is called for several at once (see `RemoteReward`).

    It returns a number for each: in a list, an array or a tensor, of one column or (a dictionary) of several, truth values
    as 1 and 0, or `(score, reason)` in the place of a score. Of a dictionary, "score" becomes the column with the reward's
    name, another key a column NAME.KEY. None or NaN abstains.

    Equal texts are judged once, and have the same score.

    Args:
        candidates: the pool.
        on_missing: "error" refuses a score that is missing; "exclude" leaves it as NaN: no rule selects such a candidate, and
            `metadata["excluded"]` counts them.
        unfinished: what becomes of responses that did not end by themselves: see `without_unfinished`.
        penalty: taken from their scores, if they are penalized.
        chats: the prompts as lists of messages [P], for rewards that read `messages`: one message of a user unless given.
        progress: show a bar on a terminal.
        **rewards: name of the column -> reward.

    Raises:
        TypeError: no reward, or something that is none.
        ValueError: another `on_missing`, a policy for unfinished responses that cannot be followed, chats of another number.
        RewardError: a reward raised, returned something else, abstained where it may not, or from all responses to a prompt;
            texts are numbered from the first prompt's first candidate on. Its `candidates` holds the pool with what was
            scored before.
    """
    if not rewards:
        raise TypeError("score_candidates() needs a reward by its name, for example proxy=reward")
    if on_missing not in ("error", "exclude"):
        raise ValueError(f"on_missing must be error or exclude, got {on_missing!r}")
    check_unfinished(unfinished, penalty)
    if chats is not None and len(chats) != candidates.num_prompts:
        raise ValueError(f"{len(chats)} chats for {candidates.num_prompts} prompts")
    for name, reward in rewards.items():
        try:
            columns, reasons = _columns(candidates, name, reward, on_missing, chats, progress)
        except RewardError as error:
            error.candidates = candidates
            raise
        excluded = {key: int(np.isnan(column).sum()) for key, column in columns.items() if np.isnan(column).any()}
        candidates = candidates.with_scores(**columns)
        if reasons:
            candidates = candidates.with_reasons(**reasons)
        if excluded:
            candidates = candidates.with_metadata(excluded={**candidates.metadata.get("excluded", {}), **excluded})
        for key in columns:
            candidates = without_unfinished(candidates, key, unfinished, penalty)
    return candidates


def _columns(
    candidates: Candidates,
    name: str,
    reward: Reward,
    on_missing: str,
    chats: Sequence[Sequence[Message]] | None,
    progress: bool,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.object_]]]:
    """Columns of scores [P, N] by their names in the pool, and of reasons."""
    texts_alone = not reads(reward)
    shape = candidates.texts.shape
    place = np.empty(shape, dtype=np.int_)  # of each candidate, among what the reward was asked about
    known: dict[Any, int] = {}
    parts: list[Judged] = []
    block = max(1, _AT_ONCE // candidates.num_candidates)
    with tqdm(total=shape[0], desc=f"scoring ({name})", unit="prompt", disable=None if progress else True) as bar:
        for begin in range(0, shape[0], block):
            rows = range(begin, min(begin + block, shape[0]))
            new = []
            for p in rows:
                for c in range(shape[1]):
                    prompt, response = candidates.prompts[p], candidates.texts[p, c]
                    key = prompt + response if texts_alone else (prompt, response, None if chats is None else p)
                    if key not in known:
                        known[key] = len(known)
                        new.append((p, c))
                    place[p, c] = known[key]
            if new:
                items = _items(candidates, new, chats)
                parts.append(ask(reward, items))
                if on_missing == "error":
                    refuse_missing(parts[-1], items, ' (on_missing="exclude" leaves it out)')
            bar.update(len(rows))
    whole = joined(parts, [len(next(iter(part.columns.values()))) for part in parts])
    columns = {_column_name(name, key): column[place] for key, column in whole.columns.items()}
    for key, column in columns.items():
        alone = np.isnan(column).all(axis=1)
        if alone.any():
            first = int(alone.argmax())
            raise RewardError(
                f"the reward abstained ({key}) from all {shape[1]} responses to prompt {first}: "
                f"{candidates.prompts[first][:60]!r}"
            )
    said = {_column_name(name, key): np.array(reasons, dtype=object)[place] for key, reasons in whole.reasons.items()}
    return columns, said


def _items(candidates: Candidates, cells: list[tuple[int, int]], chats: Sequence[Sequence[Message]] | None) -> Items:
    prompts = [candidates.prompts[p] for p, _ in cells]
    responses = [candidates.texts[cell] for cell in cells]
    return Items(
        [prompt + response for prompt, response in zip(prompts, responses, strict=True)],
        prompts,
        responses,
        None if chats is None else [chats[p] for p, _ in cells],
        [p * candidates.num_candidates + c for p, c in cells],
    )


def _column_name(name: str, key: str) -> str:
    return name if key == ITSELF else f"{name}.{key}"
