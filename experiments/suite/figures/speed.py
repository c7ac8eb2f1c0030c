"""Speed of sampling and of PPO updates beside the rivals', from `results/benchmark/speed.csv`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite.figures.page import StudyFigure, page
from suite.figures.style import color_of
from suite.metrics.speeds import Speed
from suite.metrics.statements import measured, pairs, times

#: Fill and hatch of bars in the order of contenders: distinct in gray too.
BARS = (
    (color_of("best_of_n"), ""),
    ("#BBBBBB", ""),
    ("white", "////"),
    ("#777777", ""),
    ("white", "...."),
    ("#DDDDDD", "xxxx"),
    ("black", ""),
    ("white", "----"),
)


def speed_bars(axes: Axes, speeds: Sequence[Speed], unit: str) -> None:
    """Median speeds as bars, whiskers from the slowest to the fastest round; a group for each n."""
    groups = list(dict.fromkeys(line.n for line in speeds))
    names = list(dict.fromkeys(line.contender for line in speeds))
    width = 0.8 / len(names)
    for k, (name, (face, hatch)) in enumerate(zip(names, BARS[: len(names)], strict=True)):
        lines = [line for line in speeds if line.contender == name]
        at = [groups.index(line.n) + width * (k - (len(names) - 1) / 2) for line in lines]
        middle = np.array([line.median for line in lines])
        ends = [middle - [line.lowest for line in lines], [line.highest for line in lines] - middle]
        axes.bar(at, middle, width * 0.92, color=face, hatch=hatch, edgecolor="black", linewidth=0.5, label=name)
        axes.errorbar(at, middle, yerr=ends, fmt="none", ecolor="black", elinewidth=0.7)
    axes.set_xticks(range(len(groups)), ["" if n is None else f"n = {n}" for n in groups])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0)
    axes.set_ylabel(unit)


def figure(speeds: Sequence[Speed]) -> Figure:
    """Sampling and PPO updates, each with its own legend: they share no contender."""
    both = [(measured(speeds, True), "sampling (tokens a second)"), (measured(speeds, False), "PPO (updates a minute)")]
    panels = [partial(speed_bars, speeds=lines, unit=unit) for lines, unit in both if lines]
    figure = page(panels, height=2.7)
    for legend in list(figure.legends):
        legend.remove()
    for axes in figure.axes:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    return figure


def caption(speeds: Sequence[Speed]) -> str:
    """Say in numbers what the figure shows."""
    told = [
        f"{ours.contender} runs {times(ours, rival)} times {rival.contender}" + (f" at n = {ours.n}" if sampling else "")
        for sampling in (True, False)
        for ours, rival in pairs(speeds, sampling)
    ]
    return f"Speed side by side, the median of rounds in turns (whiskers: slowest and fastest): {'; '.join(told)}."


SPEED = StudyFigure(figure, caption, ("benchmark",))
