"""Signs in its log that a training goes wrong: a first update that jumps, an objective below that of no training at all,
KL that runs away, a reward that collapses, responses that repeat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Log = Sequence[Mapping[str, Any]]

_log = logging.getLogger(__name__)

#: Updates that are averaged: one batch says little.
WINDOW = 4
#: Nats a token: the policy's next token is then about e times as sure as the base policy's would have it.
MOST_KL = 1.0
#: Of the spread between the quartiles of the rewards at the peak: a fall that noise of a window does not explain.
MOST_FALL = 0.5
#: Of the distinct-2 of the first updates.
LEAST_DISTINCT = 0.8
#: Nats that the first update may move the policy: beyond, it has moved before anything was learned.
MOST_FIRST_KL = 0.5
#: Nats below which a policy has not moved yet: its learning rate was 0.
_MOVED = 1e-3
#: Standard errors of the untrained policy's mean reward that the objective must have lost.
_CLEAR = 2.0
_GENTLER = "lower baseline.learning_rate, set baseline.warmup_updates, or raise baseline.updates"


def warnings(log: Log, kl_coef: float | None = None) -> dict[str, str]:
    """Return what is wrong after the last update of a log, by kind: a sentence each, with the remedy.

    Keys that a trainer does not log are passed over.

    Args:
        log: a row an update.
        kl_coef: the price of a nat in the objective that the trainer maximizes; None where it maximizes another one.

    >>> log = [{"update": u, "objective/kl": 30.0 * u, "response/length": 24.0, "objective/scores": 0.0,
    ...         "reward/quantile_25": -1.0, "reward/quantile_75": 1.0} for u in range(5)]
    >>> warnings(log)["kl"]
    'KL runs away: 3.1 nats a token over updates 1 to 4; raise baseline.kl_coef or lower baseline.learning_rate.'
    """
    found = {"first": _first(log)}
    if len(log) >= WINDOW:
        found.update({kind: check(log) for kind, check in _CHECKS.items()})
        found["objective"] = None if kl_coef is None else _objective(log, kl_coef)
    return {kind: text for kind, text in found.items() if text is not None}


def warn(log: Log) -> None:
    """Say what has begun to go wrong with the last update; the objective is judged at the end alone."""
    before = warnings(log[:-1])
    for kind, text in warnings(log).items():
        if kind not in before:
            _log.warning("update %s: %s", log[-1]["update"], text)


def _first(log: Log) -> str | None:
    """KL of the first roll-outs that another policy than the base drew, and whether that is much for a single update."""
    if not log or _kl_key(log) not in log[-1]:
        return None
    kl = [row[_kl_key(log)] for row in log]
    moved = next((index for index, value in enumerate(kl) if value > _MOVED), None)
    if moved is None or moved == 0 or kl[moved] <= MOST_FIRST_KL:
        return None
    return f"the first update moved the policy {kl[moved]:.1f} nats, before it had learned anything; {_GENTLER}."


def _objective(log: Log, kl_coef: float) -> str | None:
    """The objective at the end against that of the untrained policy, which drew the first update's responses."""
    key = _kl_key(log)
    if key not in log[-1]:
        return None
    start = log[0]["objective/scores"] - kl_coef * log[0][key]
    end = float(_windows(log, "objective/scores")[-1] - kl_coef * _windows(log, key)[-1])
    responses = log[0].get("episode", 0) / log[0]["update"] if log[0]["update"] else 0
    # Of a normal law the quartiles are 1.35 standard deviations apart.
    spread = (log[0]["reward/quantile_75"] - log[0]["reward/quantile_25"]) / 1.35
    margin = _CLEAR * spread / np.sqrt(responses) if responses else 0.0
    if end >= start - margin:
        return None
    return (
        f"the objective (proxy reward less {kl_coef:g} x KL) ends at {end:.2f}, below the untrained policy's {start:.2f}: "
        f"no training at all is better; {_GENTLER}."
    )


def _kl_key(log: Log) -> str:
    return "objective/kl_rao_blackwell" if "objective/kl_rao_blackwell" in log[-1] else "objective/kl"


def _kl(log: Log) -> str | None:
    key = _kl_key(log)
    if key not in log[-1] or "response/length" not in log[-1]:
        return None
    per_token = _windows(log, key)[-1] / _windows(log, "response/length")[-1]
    if per_token <= MOST_KL:
        return None
    return (
        f"KL runs away: {per_token:.1f} nats a token over {_last(log)}; "
        "raise baseline.kl_coef or lower baseline.learning_rate."
    )


def _reward(log: Log) -> str | None:
    means = _windows(log, "objective/scores")
    peak = int(means.argmax())
    spread = _windows(log, "reward/quantile_75")[peak] - _windows(log, "reward/quantile_25")[peak]
    if means[peak] - means[-1] <= MOST_FALL * spread:
        return None
    best = log[peak + WINDOW - 1]["update"]
    return (
        f"reward collapses: {means[-1]:.2f} over {_last(log)}, {means[peak]:.2f} up to update {best}; "
        f"lower baseline.learning_rate, take fewer passes over each batch, or stop at update {best}."
    )


def _distinct(log: Log) -> str | None:
    if "response/distinct_2" not in log[-1]:
        return None
    means = _windows(log, "response/distinct_2")
    if means[-1] >= LEAST_DISTINCT * means[0]:
        return None
    return (
        f"responses degenerate: distinct-2 fell from {means[0]:.2f} to {means[-1]:.2f}; "
        "raise baseline.kl_coef, train for fewer updates, or use a reward that repetition does not please."
    )


_CHECKS: dict[str, Callable[[Log], str | None]] = {"kl": _kl, "reward": _reward, "distinct": _distinct}


def _windows(log: Log, key: str) -> np.ndarray:
    """Means over every WINDOW updates in a row."""
    return np.convolve([row[key] for row in log], np.full(WINDOW, 1 / WINDOW), mode="valid")


def _last(log: Log) -> str:
    return f"updates {log[-WINDOW]['update']} to {log[-1]['update']}"
