"""Reward and win rate against KL: best-of-n, tuned policies over settings and over training, best-of-n on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from suite.figures.page import StudyFigure, page
from suite.figures.style import KL_LABEL, ON_TOP, color_of, line_style, marker
from suite.metrics.naming import axis_title, called, setting_title, title
from suite.metrics.optimum_series import optimum_curve
from suite.metrics.results import Results
from suite.metrics.rows import Row
from suite.metrics.series import (
    MEASURED,
    Curve,
    level,
    middle,
    on_line,
    over_n,
    over_settings,
    over_training,
    settings,
    tuned_methods,
)
from suite.metrics.text import number, seeds_and_prompts
from suite.metrics.vocabulary import EMA, LINE

#: Estimates of best-of-n's KL and their dashes; drawn where they depart from the bound.
ESTIMATES = {"beirami": ("-.", "best-of-n, KL estimate"), "levels": (":", "best-of-n, KL from tied scores")}
#: The upper edge of proxy reward; gold is that of the same policy.
OPTIMUM = "optimum: the most proxy that this KL can buy"
#: Of the bound: less is narrower than a line.
VISIBLE = 0.01


def reward_vs_kl(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """A metric against KL to the base policy, in nats on a square-root scale, in which best-of-n begins as a straight line."""
    best = over_n(rows, "best_of_n", metric)
    kl = over_n(rows, "best_of_n", "kl", kl_kind="bound")
    axes.plot(kl.value, best.value, color=color_of("best_of_n"), label=bound_title(rows))
    axes.fill_between(kl.value, best.low, best.high, color=color_of("best_of_n"), alpha=0.2, linewidth=0)
    for kind in departing(rows):
        dashes, label = ESTIMATES[kind]
        shown = over_n(rows, "best_of_n", "kl", kl_kind=kind)
        axes.plot(shown.value, best.value, linestyle=dashes, color="black", linewidth=1.0, label=label)
    optimum_kl, optimum = optimum_curve(rows, metric)
    if len(optimum.at):
        style = {"color": color_of("optimum"), "linestyle": line_style("optimum"), "linewidth": 1.0}
        axes.plot(optimum_kl.value, optimum.value, **style, label=OPTIMUM)
        axes.fill_between(optimum_kl.value, optimum.low, optimum.high, color=color_of("optimum"), alpha=0.12, linewidth=0)
    for method in tuned_methods(rows):
        _tuned(axes, rows, method, metric)
    kl_axis(axes)
    axes.set_ylabel(axis_title(metric))


def departing(rows: Sequence[Row]) -> list[str]:
    """The kinds of KL of best-of-n that are seen beside the bound somewhere."""
    bound = over_n(rows, "best_of_n", "kl", kl_kind="bound").value
    found = {kind: over_n(rows, "best_of_n", "kl", kl_kind=kind).value for kind in ESTIMATES}
    same = {kind: len(kl) == len(bound) and bool(np.all(np.abs(kl - bound) <= VISIBLE * bound)) for kind, kl in found.items()}
    return [kind for kind, kl in found.items() if len(kl) == len(bound) and not same[kind]]


def bound_title(rows: Sequence[Row]) -> str:
    """What the curve at the upper bound is called: where no estimate departs from it, they agree."""
    measured = any(row.kl_kind in ESTIMATES for row in rows)
    return "best-of-n, KL upper bound" + (" (estimates agree)" if measured and not departing(rows) else "")


def _tuned(axes: Axes, rows: Sequence[Row], method: str, metric: str) -> None:
    choices = settings(rows, method)
    kl, value = over_settings(rows, method, metric)
    if len(choices) > 1:
        swept = choices[0].partition("=")[0]
        error_bars(axes, kl, value, method, f"{title(method)} over {swept}", line_style(method))
    path_kl, path = over_training(rows, method, metric, middle(choices))
    if len(path.at) > 2 and len(tuned_methods(rows)) == 1 and len(choices) == 1:
        error_bars(axes, path_kl, path, method, f"{title(method)} over training, measured KL", line_style(method))
    elif len(path.at) > 2 and len(choices) > 1:
        label = f"{title(method)} over training, {setting_title(middle(choices))}"
        axes.plot(path_kl.value, path.value, "-", color=color_of(method), linewidth=0.7, alpha=0.8, label=label)
        axes.plot(path_kl.value, path.value, marker(method), markersize=2, color=color_of(method), markerfacecolor="white")
    elif len(choices) == 1:
        error_bars(axes, kl, value, method, title(method), "none")
    for setting in choices:
        _changed(axes, rows, method, metric, setting)
    top = f"{method}+best_of_n"
    for setting in choices:
        on_top, its_kl = over_n(rows, top, metric, setting), over_n(rows, top, "kl", setting, "bound")
        if len(on_top.at) > 1 and len(its_kl.at) == len(on_top.at):
            axes.plot(its_kl.value, on_top.value, color=color_of(method), linestyle=ON_TOP, linewidth=0.9, label=title(top))


def _changed(axes: Axes, rows: Sequence[Row], method: str, metric: str, setting: str) -> None:
    """Policies that a training gives beside its own: a thin line through those between weights, a ring for their average."""
    line_kl, line = on_line(rows, method, metric, setting)
    if len(line.at):
        axes.plot(line_kl.value, line.value, "-", color=color_of(method), linewidth=0.6, marker=".", markersize=2,
                  label=title(f"{method}{LINE}"))  # fmt: skip
    average = f"{method}{EMA}"
    kl, value = level(rows, average, "kl", setting, MEASURED), level(rows, average, metric, setting)
    if kl and value:
        axes.plot([kl.value], [value.value], marker(method), color=color_of(method), markersize=4, markerfacecolor="none",
                  label=title(average))  # fmt: skip


def error_bars(axes: Axes, x: Curve, y: Curve, method: str, label: str, style: Any) -> None:
    """Points with intervals in both directions."""
    axes.errorbar(
        x.value,
        y.value,
        xerr=np.abs([x.value - x.low, x.high - x.value]),
        yerr=np.abs([y.value - y.low, y.high - y.value]),
        marker=marker(method),
        linestyle=style,
        markersize=3,
        linewidth=0.8,
        elinewidth=0.8,
        color=color_of(method),
        label=label,
    )


def kl_axis(axes: Axes) -> None:
    """Nats on a square-root scale from 0; 0 and powers of two as ticks."""
    right = 1.03 * max(axes.get_xlim()[1], axes.dataLim.x1, 1.0)
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    axes.set_xlim(0, right)
    ticks = 2.0 ** np.arange(-2 if right < 4 else 0, int(np.log2(right)) + 1)
    axes.xaxis.set_major_locator(FixedLocator([0.0, *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(KL_LABEL)


def figure(results: Results) -> Figure:
    """Proxy reward, gold reward, and win rate by gold."""
    panels = [partial(reward_vs_kl, rows=results.rows, metric=metric) for metric in ("proxy", "gold", "win_rate")]
    return page(panels, height=3.3)


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    rows = results.rows
    n = int(over_n(rows, "best_of_n", "gold").at.max())
    told = [f"best-of-{n} {number(_at(rows, n, 'gold'))} at no more than {number(_at(rows, n, 'kl', 'bound'))} nats"]
    for method in tuned_methods(rows):
        for setting in settings(rows, method):
            gold, kl = level(rows, method, "gold", setting), level(rows, method, "kl", setting, MEASURED)
            if gold and kl:
                name = called(method, setting)
                told.append(f"{name} {number(gold)} at {number(kl)} nats")
    known = optimum_curve(rows, "proxy")[0].value
    edge = (
        "The optimum is the policy with the most proxy reward at its KL (base policy weighted by exp(proxy / beta)), "
        f"estimated from the base policy's candidates and drawn where they suffice, up to {known[-1]:.1f} nats. "
        if len(known)
        else ""
    )
    return (
        "Proxy reward, gold reward and win rate by gold against KL to the base policy (nats per response, on a square-root "
        "scale). Best-of-n is drawn at its upper bound log n - (n-1)/n, trained policies at their measured KL, best-of-n on "
        f"top of each (dotted, from its point on) at an upper bound again. {edge}Gold reward: {'; '.join(told)}. "
        f"Shading and bars: 95% intervals, {seeds_and_prompts(results)}."
    )


def _at(rows: Sequence[Row], n: int, metric: str, kl_kind: str | None = None) -> Row:
    return next(r for r in rows if (r.method, r.n, r.metric, r.kl_kind) == ("best_of_n", n, metric, kl_kind))


REWARD_VS_KL = StudyFigure(figure, caption, ("frontier", "smollm2"), place=2, needs="trained")
