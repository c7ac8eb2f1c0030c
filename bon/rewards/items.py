"""What a reward is asked about: prompts with their responses, in the forms that its arguments name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bon.rewards.errors import RewardError

Message = dict[str, Any]
#: Arguments by whose names a reward says what it reads. `completions` is TRL's word for responses.
NAMES = ("texts", "prompts", "responses", "completions", "messages")


@dataclass(frozen=True)
class Items:
    """Responses to be judged, one behind the other.

    Attributes:
        texts: prompt and response as one text [R].
        prompts: [R], or None where only whole texts are known.
        responses: [R], or None.
        chats: the prompts as lists of messages [R], where they are more than one message of a user.
        numbers: by which number messages call each of them [R].
    """

    texts: Sequence[str]
    prompts: Sequence[str] | None = None
    responses: Sequence[str] | None = None
    chats: Sequence[Sequence[Message]] | None = None
    numbers: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def number(self, index: int) -> int:
        """The number of an item in messages."""
        return index if self.numbers is None else self.numbers[index]

    def part(self, begin: int, end: int) -> Items:
        """The items from `begin` up to `end`."""
        return Items(*(None if column is None else column[begin:end] for column in vars(self).values()))  # type: ignore[arg-type]

    def column(self, name: str) -> list[Any] | None:
        """The items in the form of one of `NAMES`; None where it is not known."""
        if name == "texts":
            return list(self.texts)
        if self.prompts is None or self.responses is None:
            return None
        if name == "prompts":
            return list(self.prompts)
        if name != "messages":
            return list(self.responses)
        chats = self.chats or [[{"role": "user", "content": prompt}] for prompt in self.prompts]
        return [
            [*chat, {"role": "assistant", "content": response}] for chat, response in zip(chats, self.responses, strict=True)
        ]


def reads(reward: Callable[..., Any]) -> tuple[str, ...]:
    """The arguments in `NAMES` that a reward has, or none: then it reads a list of texts, its first argument.

    Raises:
        TypeError: it needs further arguments, or is no function.
    """
    if not callable(reward):
        raise TypeError(f"a reward is a function of texts, or of (prompts, responses), got {type(reward).__name__}")
    try:
        parameters = inspect.signature(reward).parameters
    except (TypeError, ValueError):  # built in
        return ()
    names = tuple(name for name in NAMES if name in parameters)
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    by_name = bool(set(names) - {"texts"})
    more = [name for name in needed if name not in names] if by_name else needed[1:]
    if more:
        raise TypeError(
            f"a reward cannot be asked for {', '.join(more)}: it reads one list of texts, or what its arguments "
            f"{', '.join(NAMES)} name; bind others by functools.partial"
        )
    return names if by_name else ()


def arguments(reward: Callable[..., Any], items: Items) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments with which a reward is asked about these items.

    Raises:
        RewardError: it needs prompts and responses apart, and only whole texts are known.
    """
    names = reads(reward)
    if not names:
        return [list(items.texts)], {}
    known = {name: items.column(name) for name in names}
    given = {name: column for name, column in known.items() if column is not None}
    parameters = inspect.signature(reward).parameters
    lacking = [name for name in names if name not in given and parameters[name].default is inspect.Parameter.empty]
    if lacking:
        raise RewardError(f"the reward reads {', '.join(lacking)}, but only whole texts are known here")
    return [], given
