"""Share of the optimum: the objective that each method gains over the base policy by the most that any policy can gain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator, PercentFormatter

from suite.figures.page import StudyFigure, page
from suite.figures.style import SINGLE_COLUMN, color_of, line_style, marker
from suite.metrics.naming import called, title
from suite.metrics.optimum_series import SharePoint, best_of_n_at_best, best_of_n_points, share_points
from suite.metrics.results import Results
from suite.metrics.rows import Row
from suite.metrics.series import curve, tuned_methods
from suite.metrics.text import fixed, seeds_and_prompts

#: Shares below are drawn at the edge: a policy that loses more has no use for the digits.
LOWEST = -0.5
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def share(axes: Axes, rows: Sequence[Row]) -> None:
    """Shares against the price of a nat: best-of-n as a curve, trained policies as points; open where only a bound."""
    axes.axhline(1.0, color=color_of("optimum"), linestyle=line_style("optimum"), linewidth=0.8)
    axes.axhline(0.0, color="black", linewidth=0.4, linestyle=":")
    best = [point for point in best_of_n_points(rows) if point.bound is None]
    if best:
        line = curve([point.beta for point in best], [point.share for point in best])
        axes.plot(line.at, line.value, color=color_of("best_of_n"), label="best-of-n, best n")
        axes.fill_between(line.at, line.low, line.high, color=color_of("best_of_n"), alpha=0.2, linewidth=0)
    for method in tuned_methods(rows):
        points = share_points(rows, method)
        for bounded in (False, True):
            _points(axes, [point for point in points if (point.bound is not None) == bounded], method, bounded)
        if len(points) > 1:
            line = curve([point.beta for point in points], [point.share for point in points])
            at_least = np.maximum(line.value, LOWEST)
            axes.plot(line.at, at_least, color=color_of(method), linestyle=line_style(method), linewidth=0.8)
    prices = [point.beta for method in tuned_methods(rows) for point in share_points(rows, method)]
    _price_axis(axes, prices or [point.beta for point in best])
    axes.set_ylim(max(LOWEST, axes.get_ylim()[0]) - 0.08, 1.08)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("share of the optimum")


def _points(axes: Axes, points: Sequence[SharePoint], method: str, bounded: bool) -> None:
    if not points:
        return
    line = curve([point.beta for point in points], [point.share for point in points])
    value = np.maximum(line.value, LOWEST)
    axes.errorbar(
        line.at,
        value,
        yerr=np.abs([value - np.clip(line.low, LOWEST, value), np.maximum(line.high, value) - value]),
        fmt=marker(method),
        fillstyle="none" if bounded else "full",
        markersize=4,
        elinewidth=0.9,
        color=color_of(method),
        label=title(method) + (", at most" if bounded else ""),
    )


def _price_axis(axes: Axes, prices: Sequence[float]) -> None:
    """The price of a nat, as far as trained policies paid one, on a logarithmic scale."""
    low, high = (min(prices), max(prices)) if prices else (0.1, 1.0)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.4, high * 1.4)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low / 1.4 <= tick <= high * 1.4]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xlabel("price of a nat of KL, kl_coef (logit)")


def figure(results: Results) -> Figure:
    """One column."""
    return page([partial(share, rows=results.rows)], width=SINGLE_COLUMN, height=2.6)


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    rows, told = results.rows, []
    if (best := best_of_n_at_best(rows)) is not None:
        told.append(f"best-of-{best.share.n} {_percent(best)} at {fixed(best.beta, 2)}")
    for method in tuned_methods(rows):
        for point in share_points(rows, method):
            at = "" if point.setting else f" at {fixed(point.beta, 2)}"
            told.append(f"{called(method, point.setting)} {_percent(point)}{at}")
    return (
        "Share of the optimum: reward gained over the base policy less the price x KL, by the most that any policy can gain "
        "at that price, which is estimated from the base policy's candidates. PPO and RLOO are judged at the price they were "
        "trained with, best-of-n (its upper bound of KL) at every price with its best n, the others at the price where their "
        f"share is greatest. {'; '.join(told)}. Intervals: 95%, {seeds_and_prompts(results)}."
    )


def _percent(point: SharePoint) -> str:
    row = point.share
    ends = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.0%}, {row.ci_high:.0%}]"
    return {None: "", "upper": "at most ", "lower": "at least "}[point.bound] + f"{row.value:.0%}{ends}"


SHARE = StudyFigure(figure, caption, ("frontier", "smollm2"), place=5, needs="shares")
