"""Sentences that figures and the README share: what a policy is worth, where it is better, how much faster this sampler is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from suite.metrics.naming import called, setting_title, title
from suite.metrics.results import Results, interval
from suite.metrics.series import over_n, settings, tuned_methods
from suite.metrics.speeds import Speed
from suite.metrics.text import fixed, parts

LIMIT = "limit: matrix products"
#: How this project's contenders begin.
OURS = ("bon, ", "bon compiled, ", "ours, ")

Points = Sequence[Mapping[str, float]]


def pays_off(results: Results, method: str, setting: str) -> list[str]:
    """Equivalent n and break-even of a tuned policy, a sentence each; none where they are not known."""
    found = results.compared(method, setting)
    if not found:
        return []
    name = called(method, setting)
    worth, requests = interval(found["equivalent_n"]), interval(found["break_even_requests"])
    most = int(over_n(results.rows, "best_of_n", "gold").at.max())
    if np.isinf(worth.value):
        told = [f"{name} is worth more than best-of-{most}, the most that was drawn."]
    elif np.isinf(worth.high):
        told = [f"{name} is worth best-of-{fixed(float(worth.value), 0)} [{fixed(float(worth.low), 0)}, more than {most}]."]
    else:
        told = [f"{name} is worth best-of-{parts(found['equivalent_n'], 0)}."]
    if np.isinf(requests.value):
        return [*told, "Its training does not pay off: best-of-n of equal gold reward costs no more."]
    at_most = "at most " if found["break_even_requests"].get("at_most") else ""
    ends = [fixed(float(end), 0) if np.isfinite(end) else "never" for end in (requests.low, requests.high)]
    below = "at most " if found["break_even_requests"].get("low_at_most") else ""
    over = f" [{below}{ends[0]}, {ends[1]}]" if ends[0] != ends[1] else ""
    return [*told, f"Its training pays off after {at_most}{fixed(float(requests.value), 0)}{over} requests, in FLOPs."]


def differences(results: Results) -> dict[tuple[str, str], Points]:
    """(method, name) -> differences at equal KL with their intervals: over what was swept, or over a single training."""
    found: dict[tuple[str, str], Points] = {}
    swept = results.findings.get("equal_kl", {})
    for method in tuned_methods(results.rows):
        choices = settings(results.rows, method)
        if swept.get(method):
            found[method, f"{title(method)} over {choices[0].partition('=')[0]}"] = swept[method]
            continue
        # Swept policies that end at one KL have a line each: over their training.
        for choice in choices:
            points = results.compared(method, choice).get("best_of_n_minus_method_at_equal_kl")
            if points:
                name = f"{title(method)}, {setting_title(choice)}" if choice else f"{title(method)} over training"
                found[method, name] = points
    return found


def measured(speeds: Sequence[Speed], sampling: bool) -> list[Speed]:
    """Lines with a number: of sampling, or of the rest; the machine's limit is none of the contenders."""
    lines = [line for line in speeds if (line.what == "sampling") == sampling and not np.isnan(line.median)]
    return [line for line in lines if not line.contender.startswith(LIMIT)]


def pairs(speeds: Sequence[Speed], sampling: bool) -> list[tuple[Speed, Speed]]:
    """(ours, a rival at the same n) of every rival; of sampling, in the same precision, which names end in."""
    lines = measured(speeds, sampling)
    ours = [line for line in lines if line.contender.startswith(OURS)]
    rivals = [line for line in lines if line not in ours]
    alike = (
        (lambda a, b: a.contender.rpartition(", ")[2] == b.contender.rpartition(", ")[2]) if sampling else lambda a, b: True
    )
    return [(one, rival) for rival in rivals for one in ours if one.n == rival.n and alike(one, rival)]


def times(ours: Speed, rival: Speed) -> str:
    """Return how many times as fast ours is; both know their ratio to the same contender."""
    return fixed(rival.ratio / ours.ratio, 1)
