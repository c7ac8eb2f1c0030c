"""Gains of each method, as shares of the optimum, in words and for `findings.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite.analysis.objective import Gained, Yardstick, best_of_n_as_json
from suite.metrics.naming import title


def objectives_as_json(yardstick: Yardstick, objectives: Mapping[str, Gained]) -> dict[str, Any]:
    """Method, behind a space its setting -> price, objective, share; best-of-n first, where the optimum is known."""
    best = best_of_n_as_json(yardstick)
    return {**({} if best is None else {"best_of_n": best}), **{label: each.as_json() for label, each in objectives.items()}}


def objective_sentences(yardstick: Yardstick, objectives: Mapping[str, Gained]) -> list[str]:
    """One sentence on the objectives, and one on best-of-n."""
    prompts, candidates = yardstick.proxy.shape
    lines = []
    if objectives:
        each = "; ".join(_told(label, found) for label, found in objectives.items())
        lines.append(
            "Objective gained over the base policy (proxy reward less the price of a nat x KL), and its share of what the "
            f"optimum gains ({candidates:,} candidates of each of {prompts} prompts tell): {each}."
        )
    found = yardstick.best_of_n
    k = yardstick.best_price
    if k is not None:
        share, low, high = (float(part[k]) for part in found.share)
        lines.append(
            f"Best-of-n comes nearest to the optimum where a nat costs {found.best_beta:g}: best-of-{int(found.n[k])}, at its "
            f"upper bound of KL, gains {share:.0%} [{low:.0%}, {high:.0%}] of it."
        )
    return lines


def _told(label: str, found: Gained) -> str:
    method, _, setting = label.partition(" ")
    name = f"{title(method)} ({setting})" if setting else title(method)
    at = "" if found.own and setting else f" at {found.beta:g} a nat" + ("" if found.own else ", where its share is greatest,")
    value, low, high = (float(part) for part in found.objective)
    share, least, most = (float(part) for part in found.share.share)
    bound = {None: "", "upper": "at most ", "lower": "at least "}[found.share.bound]
    return f"{name}{at} {value:+.2f} [{low:+.2f}, {high:+.2f}], {bound}{share:.0%} [{least:.0%}, {most:.0%}]"
