"""Reward against n: best-of-n as a curve, tuned policies as levels, best-of-n on top of them as curves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from suite.figures.margin import Note, write_notes
from suite.figures.page import StudyFigure, page
from suite.figures.style import N_LABEL, ON_TOP, color_of, line_style
from suite.metrics.naming import axis_title, called, setting_title, title
from suite.metrics.results import Results
from suite.metrics.rows import Row
from suite.metrics.series import Curve, level, middle, over_n, settings, spread, tuned_methods
from suite.metrics.text import number, rows_of, seeds_and_prompts

#: Levels of one method that are still told apart; odd, so that the middle setting is among them.
MOST_LEVELS = 5


def reward_vs_n(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Reward against n. Of several tuned methods only the first is shown; its settings are named at the right."""
    best = over_n(rows, "best_of_n", metric)
    _band(axes, best, "best_of_n", title("best_of_n"), 0.2)
    notes = []
    for method in tuned_methods(rows)[:1]:
        choices = spread(settings(rows, method), MOST_LEVELS)
        for setting in choices:
            tuned = level(rows, method, metric, setting)
            if tuned is None:
                continue
            axes.axhline(tuned.value, color=color_of(method), linestyle=line_style(method), linewidth=1.1, label=title(method))
            if tuned.ci_low is not None and tuned.ci_high is not None:
                axes.axhspan(tuned.ci_low, tuned.ci_high, color=color_of(method), alpha=0.15, linewidth=0)
            if len(choices) > 1:
                notes.append(Note(tuned.value, setting_title(setting), color_of(method)))
        more = over_n(rows, f"{method}+best_of_n", metric, middle(settings(rows, method)))
        if len(more.at) > 1:
            _band(axes, more, method, title(f"{method}+best_of_n"), 0.1, ON_TOP)
    n_axis(axes, best.at)
    axes.set_ylabel(axis_title(metric))
    write_notes(axes, notes)


def n_axis(axes: Axes, n: Sequence[float] | np.ndarray) -> None:
    """Powers of two up to the greatest n, every second one where there are many."""
    powers = np.arange(int(np.log2(np.max(n))) + 1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(2.0 ** powers[:: 2 if len(powers) > 7 else 1])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(N_LABEL)


def figure(results: Results) -> Figure:
    """Proxy reward and gold reward."""
    return page([partial(reward_vs_n, rows=results.rows, metric=metric) for metric in ("proxy", "gold")])


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    rows = results.rows
    best = rows_of(rows, "best_of_n", "gold")
    told = [f"base policy {number(rows_of(rows, 'base', 'gold')[0])}"]
    told += [f"{title('best_of_n', row.n)} {number(row)}" for row in best if row.n in (8, best[-1].n)]
    for method in tuned_methods(rows)[:1]:
        for setting in spread(settings(rows, method), MOST_LEVELS):
            if tuned := level(rows, method, "gold", setting):
                told.append(f"{called(method, setting)} {number(tuned)}")
    dotted = "".join(
        f" The dotted curve is best-of-n on top of {called(method, middle(settings(rows, method)))}."
        for method in tuned_methods(rows)[:1]
    )
    return (
        "Reward against n; left the proxy, which selects and trains, right gold, which only judges. Gold reward: "
        f"{'; '.join(told)}. Bands: 95% intervals {seeds_and_prompts(results)}.{dotted}"
    )


def _band(axes: Axes, shown: Curve, method: str, label: str, alpha: float, style: str = "-") -> None:
    axes.plot(shown.at, shown.value, color=color_of(method), linestyle=style, label=label)
    axes.fill_between(shown.at, shown.low, shown.high, color=color_of(method), alpha=alpha, linewidth=0)


REWARD_VS_N = StudyFigure(figure, caption, ("frontier", "smollm2"), place=1)
