"""Contenders in turns: every one runs once a round, and what is reported is the median and the median ratio of a round.

Speeds of shared machines drift; the ratio of two speeds of one round drifts less than the ratio of two medians.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from suite.metrics.speeds import Speed
from suite.runtime.errors import one_line


class UnavailableError(Exception):
    """A contender cannot run here; the message says why, in one line."""


def in_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int, label: str = "", warm_up: bool = True
) -> dict[str, list[float] | str]:
    """The speeds of every contender, one a round; for one that failed, the reason in one line.

    Args:
        contenders: name to a function that runs once and returns its speed. The first is the one that the others are
            compared with; its errors are raised. Every other one that fails leaves its reason and the rest go on.
        rounds: how many rounds count.
        label: what the progress bar says, on a terminal.
        warm_up: whether one round before them does not count.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    reasons: dict[str, str] = {}
    reference = next(iter(contenders))
    turns = [(done, name) for done in range(-int(warm_up), rounds) for name in contenders]
    for done, name in tqdm(turns, desc=label, unit="", disable=None, leave=False):
        if name in reasons:
            continue
        try:
            speed = contenders[name]()
        except Exception as error:  # whatever goes wrong in other people's code is a row of the table
            if name == reference:
                raise
            reasons[name] = reason(error)
            continue
        if done >= 0:
            speeds[name].append(speed)
    return {name: reasons.get(name, speeds[name]) for name in contenders}


def reason(error: Exception) -> str:
    """An error as one short line; its type where the program did not foresee it."""
    line = one_line(error)
    if isinstance(error, UnavailableError) or not str(error).strip():
        return line
    return f"{type(error).__name__}: {line}"[:160]


def line(
    what: str,
    n: int | None,
    contender: str,
    speeds: Sequence[float] | str,
    unit: str,
    reference: Sequence[float],
    limit: Sequence[float] | str | None = None,
    note: str = "",
) -> Speed:
    """The line of one contender.

    Args:
        what: what was measured.
        n: responses a prompt, where there are any.
        contender: its name.
        speeds: a number a round, the greater the faster; or why there are none.
        unit: of the speeds.
        reference: this project's speeds in the same rounds.
        limit: the machine's limit in the same rounds and unit; a reason or None means no share.
        note: how it was run.
    """
    none = float("nan")
    if isinstance(speeds, str):
        return Speed(what, n, contender, none, none, none, unit, none, note=speeds)
    own = np.asarray(speeds, dtype=float)
    share = none if limit is None or isinstance(limit, str) else float(np.median(own / np.asarray(limit)))
    return Speed(
        what=what,
        n=n,
        contender=contender,
        median=float(np.median(own)),
        lowest=float(own.min()),
        highest=float(own.max()),
        unit=unit,
        ratio=float(np.median(np.asarray(reference) / own)),
        share=share,
        note=note,
    )
