"""The forms in which a reward may answer, and the one that everything else reads: a column of numbers a name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bon.rewards.errors import RewardError, shown
from bon.rewards.items import Items

#: The name of the score itself among columns. A dictionary may call it "score".
ITSELF = ""


@dataclass(frozen=True)
class Judged:
    """What a reward said of R items.

    Attributes:
        columns: name -> scores [R]; `ITSELF` is the score of a reward that gives one. NaN: it abstained.
        reasons: name -> what it said of each score [R], where it said anything.
        missing: what stands, in the answer, for the first score that is missing, and whose it is; None if none is.
    """

    columns: dict[str, NDArray[np.float64]]
    reasons: dict[str, list[str | None]]
    missing: tuple[int, str] | None


def judged(returned: Any, items: Items) -> Judged:
    """Read what a reward returned for these items.

    A list, an array or a tensor of numbers; truth values count as 1 and 0; None and NaN abstain; `(score, reason)` in the
    place of a number; several columns as a dictionary of any of those, or as a dictionary a text.

    Raises:
        RewardError: another form or number of scores, a score that is no number or infinite; the message names the text.
    """
    if isinstance(returned, Mapping):
        if not returned or any(isinstance(values, str | bytes) or not _listed(values) for values in returned.values()):
            raise _no_scores(returned, items)
        answers = {_name(name): _entries(values, items) for name, values in returned.items()}
    else:
        entries = _entries(returned, items)
        _refuse_pipelines(entries)
        if entries and all(isinstance(entry, Mapping) for entry in entries):
            names = list(entries[0])
            other = next((index for index, entry in enumerate(entries) if set(entry) != set(names)), None)
            if other is not None or not names:
                index = other or 0
                raise RewardError(
                    f"the reward of text {items.number(index)} has the columns {sorted(map(str, entries[index]))}, that of "
                    f"text {items.number(0)} has {sorted(map(str, names))}: all need the same; None abstains"
                )
            answers = {_name(name): [entry[name] for entry in entries] for name in names}
        else:
            answers = {ITSELF: entries}
    columns: dict[str, NDArray[np.float64]] = {}
    reasons: dict[str, list[str | None]] = {}
    missing = None
    for name, entries in answers.items():
        pairs = [_scored(entry) for entry in entries]
        columns[name] = np.array([_checked(score, index, items) for index, (score, _) in enumerate(pairs)], dtype=np.float64)
        if any(reason is not None for _, reason in pairs):
            reasons[name] = [reason for _, reason in pairs]
        absent = np.flatnonzero(np.isnan(columns[name]))
        if len(absent) and missing is None:
            missing = int(absent[0]), "None, not a number" if pairs[absent[0]][0] is None else "nan, not finite"
    return Judged(columns, reasons, missing)


def joined(parts: Sequence[Judged], sizes: Sequence[int]) -> Judged:
    """One answer from those to consecutive items.

    Raises:
        RewardError: they have different columns.
    """
    if len({frozenset(part.columns) for part in parts}) > 1:
        raise RewardError(f"the reward returned the columns {[sorted(part.columns) for part in parts]} in one go: which?")
    names = {name: None for part in parts for name in part.reasons}
    offsets = np.cumsum([0, *sizes]).tolist()
    missing = next(
        ((part.missing[0] + begin, part.missing[1]) for part, begin in zip(parts, offsets, strict=False) if part.missing), None
    )
    return Judged(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in (parts[0].columns if parts else [ITSELF])},
        {
            name: [reason for part, size in zip(parts, sizes, strict=True) for reason in part.reasons.get(name, [None] * size)]
            for name in names
        },
        missing,
    )


def _name(name: Any) -> str:
    return ITSELF if name == "score" else str(name)


def _listed(values: Any) -> bool:
    return isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0


def _no_scores(returned: Any, items: Items) -> RewardError:
    return RewardError(f"the reward returned {type(returned).__name__}, not one number for each of {len(items)} texts")


def _entries(returned: Any, items: Items) -> list[Any]:
    """One entry for each item."""
    if isinstance(returned, torch.Tensor):
        returned = returned.detach().cpu()
        returned = (returned if returned.dtype == torch.bool else returned.double()).numpy()
    if isinstance(returned, np.ndarray):
        if returned.ndim == 2 and returned.shape[1] > 1 and len(returned) == len(items):
            raise RewardError(
                f"the reward returned {returned.shape[1]} numbers for each text: name the columns, as "
                '{"helpful": scores[:, 0], "harmless": scores[:, 1]}'
            )
        returned = returned.reshape(-1)
    if isinstance(returned, str | bytes | Mapping) or not _listed(returned):
        raise _no_scores(returned, items)
    entries = list(returned)
    if len(entries) != len(items):
        raise RewardError(
            f"the reward returned {len(entries)} scores for {len(items)} texts"
            + (
                f", none for text {items.number(len(entries))}: {shown(items.texts[len(entries)])}"
                if len(entries) < len(items)
                else ""
            )
        )
    return entries


def _refuse_pipelines(entries: list[Any]) -> None:
    first = entries[0] if entries else None
    if isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, Mapping) and {"label", "score"} <= set(first):
        raise RewardError(
            f"the reward returned what a pipeline of transformers returns, such as {dict(first)}: its score is that of "
            "whichever label won, not of the one that is wanted; use "
            f"ClassifierReward(pipe.model, pipe.tokenizer, {first['label']!r}), with the label that is to be rewarded"
        )


def _scored(entry: Any) -> tuple[Any, str | None]:
    """A score and its reason."""
    if isinstance(entry, tuple | list) and len(entry) == 2 and (isinstance(entry[1], str) or entry[1] is None):
        return entry[0], entry[1]
    return entry, None


def _checked(score: Any, index: int, items: Items) -> float:
    if score is None:
        return math.nan
    try:
        number = _number(score)
    except Exception:  # anything may be in there
        raise RewardError(
            f"the reward of text {items.number(index)} is {score!r}, not a number: {shown(items.texts[index])}"
        ) from None
    if math.isinf(number):
        raise RewardError(f"the reward of text {items.number(index)} is {number}, not finite: {shown(items.texts[index])}")
    return number


def _number(score: Any) -> float:
    """A number, also from a tensor on any device, an array or a list that holds one; True is 1."""
    if isinstance(score, torch.Tensor):
        score = score.item()
    while isinstance(score, np.ndarray | list | tuple):
        (score,) = score
    if isinstance(score, str | bytes):  # float() would take "1.5"
        raise TypeError
    return float(score)
