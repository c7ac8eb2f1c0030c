"""Effects of optimisation on the text: perplexity, distinct-2 and length, against n and against KL."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite.figures.page import StudyFigure, page
from suite.figures.reward_vs_kl import error_bars, kl_axis
from suite.figures.reward_vs_n import n_axis
from suite.figures.style import ON_TOP, color_of, line_style
from suite.metrics.naming import axis_title, called, title
from suite.metrics.results import Results
from suite.metrics.rows import Row
from suite.metrics.series import curve, level, middle, over_n, over_settings, settings, tuned_methods
from suite.metrics.text import number, rows_of, seeds_and_prompts

METRICS = ("perplexity", "distinct_2", "length")


def quality_vs_n(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """A metric of best-of-n of the base policy and of the first tuned method at its middle setting."""
    best = over_n(rows, "best_of_n", metric)
    axes.plot(best.at, best.value, color=color_of("best_of_n"), label=title("best_of_n"))
    axes.fill_between(best.at, best.low, best.high, color=color_of("best_of_n"), alpha=0.2, linewidth=0)
    for method in tuned_methods(rows)[:1]:
        top = f"{method}+best_of_n"
        more = over_n(rows, top, metric, middle(settings(rows, method)))
        axes.plot(more.at, more.value, color=color_of(method), linestyle=ON_TOP, label=title(top))
        axes.fill_between(more.at, more.low, more.high, color=color_of(method), alpha=0.15, linewidth=0)
    n_axis(axes, best.at)
    axes.set_ylabel(axis_title(metric))


def quality_vs_kl(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """A metric against KL: best-of-n at its upper bound, tuned policies as measured after training."""
    best = over_n(rows, "best_of_n", metric)
    kl = over_n(rows, "best_of_n", "kl", kl_kind="bound")
    at = np.interp(best.at, kl.at, kl.value)
    axes.plot(at, best.value, color=color_of("best_of_n"), label=title("best_of_n"))
    axes.fill_between(at, best.low, best.high, color=color_of("best_of_n"), alpha=0.2, linewidth=0)
    for method in tuned_methods(rows):
        its_kl, value = over_settings(rows, method, metric)
        if len(value.at):
            base = rows_of(rows, "base", metric)[:1]
            start = curve([0], base)
            swept = len(settings(rows, method)) > 1
            if swept and base:
                axes.plot([0, its_kl.value[0]], [start.value[0], value.value[0]], ":", color=color_of(method), linewidth=0.6)
            error_bars(axes, its_kl, value, method, title(method), line_style(method) if swept else "none")
    kl_axis(axes)
    axes.set_ylabel(axis_title(metric))
    if metric == "perplexity":  # runs over decades
        axes.set_yscale("log")


def figure(results: Results) -> Figure:
    """Three metrics against n above and, where there is a trained policy, against KL below."""
    above = [partial(quality_vs_n, rows=results.rows, metric=metric) for metric in METRICS]
    if not tuned_methods(results.rows):
        return page(above, height=2.4)
    below = [partial(quality_vs_kl, rows=results.rows, metric=metric) for metric in METRICS]
    return page([*above, *below], columns=3, height=4.4)


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    rows, told = results.rows, []
    for metric, name in zip(METRICS, ("perplexity", "distinct-2", "length"), strict=True):
        best = rows_of(rows, "best_of_n", metric)
        each = [f"base policy {number(rows_of(rows, 'base', metric)[0])}", f"best-of-{best[-1].n} {number(best[-1])}"]
        for method in tuned_methods(rows):
            setting = middle(settings(rows, method))
            if found := level(rows, method, metric, setting):
                each.append(f"{called(method, setting)} {number(found)}")
        told.append(f"{name}: {', '.join(each)}")
    against = "above against n, below against KL (best-of-n at its upper bound)" if tuned_methods(rows) else "against n"
    return (
        f"Perplexity under the base policy, distinct-2 and length of responses, {against}. {'; '.join(told)}. Bands: 95% "
        f"intervals {seeds_and_prompts(results)}."
    )


QUALITY = StudyFigure(figure, caption, ("frontier", "smollm2"), place=7)
