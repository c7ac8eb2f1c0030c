"""Differences at equal KL: best-of-n minus each tuned policy in gold reward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite.figures.page import StudyFigure, page
from suite.figures.style import SINGLE_COLUMN, color_of, marker
from suite.metrics.results import Results
from suite.metrics.statements import Points, differences
from suite.metrics.text import parts, seeds_and_prompts

#: Markers of a method's second line and those after it.
MARKERS = ("s", "^", "D", "v", "P")


def compared(results: Results) -> dict[tuple[str, str], Points]:
    """(method, name) -> differences: those of trained policies, and best-of-n minus the optimum where it is known."""
    found = dict(differences(results))
    if points := results.findings.get("best_of_n_minus_optimum_at_equal_kl"):
        found["optimum", "optimum"] = points
    return found


def equal_kl(axes: Axes, found: Mapping[tuple[str, str], Points]) -> None:
    """Differences against KL, methods side by side where they share a KL."""
    axes.axhline(0.0, color="black", linewidth=0.6)
    places = sorted({part["kl"] for each in found.values() for part in each})
    step = min(0.16, 0.6 / max(len(found), 1))
    drawn: Counter[str] = Counter()
    for k, ((method, name), each) in enumerate(found.items()):
        shift = step * (k - (len(found) - 1) / 2)
        value, low, high = (np.array([part[end] for part in each], dtype=float) for end in ("value", "low", "high"))
        axes.errorbar(
            [places.index(part["kl"]) + shift for part in each],
            value,
            yerr=[value - low, high - value],
            fmt=(marker(method), *MARKERS)[drawn[method] % (1 + len(MARKERS))],
            fillstyle="none" if drawn[method] % 2 else "full",
            markersize=3.5,
            elinewidth=0.9,
            color=color_of(method),
            label=name,
        )
        if all("band_low" in part for part in each):
            at = [places.index(part["kl"]) + shift for part in each]
            bottom, top = [part["band_low"] for part in each], [part["band_high"] for part in each]
            axes.vlines(at, bottom, top, colors=color_of(method), linewidth=0.35)
        drawn[method] += 1
    values = [float(part["value"]) for each in found.values() for part in each]
    if values:  # intervals of few seeds may be wider than all there is to see: they leave the page
        reach = max(1.0, max(0.0, *values) - min(0.0, *values))
        lowest, highest = axes.get_ylim()
        axes.set_ylim(max(lowest, min(0.0, *values) - reach), min(highest, max(0.0, *values) + reach))
    axes.set_xticks(range(len(places)), [f"{kl:g}" for kl in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel("KL to the base policy (nats)")
    axes.set_ylabel("gold reward, best-of-n\nminus the other policy")


def figure(results: Results) -> Figure:
    """One column."""
    return page([partial(equal_kl, found=compared(results))], width=SINGLE_COLUMN, height=2.4)


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    told = []
    for (_, name), each in compared(results).items():
        told.append(f"{name}: " + ", ".join(f"{parts(part)} at {part['kl']:g}" for part in each))
    return (
        "Best-of-n (at its upper bound of KL) minus trained policies in gold reward, at equal KL in nats, paired by prompt, "
        "trained policies in the square root of KL between measured ones (a training where it first reaches a KL) and nowhere "
        f"below the first of them; above 0 best-of-n is ahead. {'; '.join(told)}. Intervals: 95% for each KL alone, "
        f"{seeds_and_prompts(results)}; thin bars: a band that holds at all KLs of a line at once."
    )


EQUAL_KL = StudyFigure(figure, caption, ("frontier", "smollm2"), place=3, needs="trained")
