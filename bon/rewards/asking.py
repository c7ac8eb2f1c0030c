"""Asking a reward about items, whatever it reads, whether it is a coroutine function or not, in whatever form it answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.rewards.errors import RewardError, shown
from bon.rewards.forms import ITSELF, Judged, joined, judged
from bon.rewards.items import Items, Message, arguments
from bon.rewards.remote import RemoteError, RemoteReward, finished, is_coroutine_function

#: A function of a list of texts (prompt and response as one), or of what its arguments name: `prompts`, `responses` (TRL:
#: `completions`), `messages`, `texts`. It returns a number for each, in any form of `bon.rewards.forms`. What TRL's sampler
#: called `queries_to_scores`.
Reward = Callable[..., Any]


def ask(reward: Reward, items: Items) -> Judged:
    """What a reward says of these items.

    Raises:
        RewardError: it raised, or answered in another form than a reward may; the message names the text where it can.
        TypeError: it is no reward.
    """
    remote = reward if isinstance(reward, RemoteReward) else getattr(reward, "remote", None)
    if remote is None and is_coroutine_function(reward):
        remote = RemoteReward(reward)
    if isinstance(remote, RemoteReward):
        return _asked_remotely(remote, items)
    positional, named = arguments(reward, items)
    try:
        returned = reward(*positional, **named)
        if inspect.isawaitable(returned):
            returned = finished(returned)
    except Exception as error:
        raise RewardError(f"the reward raised {type(error).__name__}: {error}") from error
    return judged(returned, items)


def _asked_remotely(reward: RemoteReward, items: Items) -> Judged:
    parts = [items.part(begin, begin + reward.batch_size) for begin in range(0, len(items), reward.batch_size)]
    try:
        returned = reward.returned([arguments(reward, part) for part in parts])
    except RemoteError as error:
        part = parts[error.call]
        tried = "" if error.tries == 1 else f", tried {error.tries} times"
        raise RewardError(
            f"the reward raised {type(error.cause).__name__}: {error.cause}{tried} (from text {part.number(0)} on: "
            f"{shown(part.texts[0])})"
        ) from error.cause
    answers = [judged(one, part) for one, part in zip(returned, parts, strict=True)]
    return joined(answers, [len(part) for part in parts])


def refuse_missing(answer: Judged, items: Items, remedy: str = "") -> None:
    """Refuse an answer that lacks a score.

    Raises:
        RewardError: the message names the first such text.
    """
    if answer.missing is not None:
        index, said = answer.missing
        raise RewardError(f"the reward of text {items.number(index)} is {said}{remedy}: {shown(items.texts[index])}")


def checked_scores(
    reward: Reward,
    texts: Sequence[str],
    first: int = 0,
    *,
    prompts: Sequence[str] | None = None,
    responses: Sequence[str] | None = None,
    chats: Sequence[Sequence[Message]] | None = None,
) -> NDArray[np.float64]:
    """The reward of every text [len(texts)], checked.

    Args:
        reward: what is called.
        texts: what it reads, prompt and response as one.
        first: the number by which errors call the first of them.
        prompts: the prompts, for rewards that read them apart.
        responses: the responses.
        chats: the prompts as lists of messages.

    Raises:
        RewardError: the reward raised, returned another number of scores, several columns, or a score that is missing or not a
            finite number; the message names the first such text.
    """
    items = Items(texts, prompts, responses, chats, range(first, first + len(texts)))
    answer = ask(reward, items)
    refuse_missing(answer, items)
    if ITSELF not in answer.columns:
        raise RewardError(f'the reward returned the columns {", ".join(answer.columns)}: call the one that counts "score"')
    return answer.columns[ITSELF]
