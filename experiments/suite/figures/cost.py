"""Cost of a request and the reward that it buys; when training has paid for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bon.intervals import Interval
from suite.figures.page import Panel, StudyFigure, page
from suite.figures.reward_vs_kl import error_bars
from suite.figures.style import ON_TOP, color_of, line_style, marker
from suite.metrics.cost import Costs, break_even
from suite.metrics.naming import axis_title, called, title
from suite.metrics.results import Results, interval
from suite.metrics.rows import Row, select
from suite.metrics.series import curve, last_step, level, middle, over_n, settings, tuned_methods
from suite.metrics.statements import pays_off
from suite.metrics.text import seeds_and_prompts


def reward_vs_cost(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Reward against FLOPs of a request: best-of-n as curves over n, policies sampled once as points."""
    shown = [("best_of_n", "base", "")]
    shown += [(f"{method}+best_of_n", method, s) for method in tuned_methods(rows) for s in settings(rows, method)]
    for best, first, setting in shown:
        cost, value = (over_n(rows, best, name, setting) for name in ("flops_per_request", metric))
        if len(cost.at) != len(value.at) or len(cost.at) < 2:
            continue
        dashes, width = ("-", 1.4) if first == "base" else (ON_TOP, 0.9)
        axes.plot(cost.value, value.value, color=color_of(best), linestyle=dashes, linewidth=width, label=title(best))
        axes.fill_between(cost.value, value.low, value.high, color=color_of(best), alpha=0.1, linewidth=0)
    axes.plot(cost_of(rows, "base"), [r.value for r in select(rows, method="base", metric=metric, n=1)][:1],
              marker("base"), color=color_of("base"), markersize=4, label=title("base"))  # fmt: skip
    for method in tuned_methods(rows):
        pairs = [(level(rows, method, "flops_per_request", s), level(rows, method, metric, s)) for s in settings(rows, method)]
        costs, values = [x for x, _ in pairs if x], [y for x, y in pairs if x and y]
        at = list(range(len(costs)))
        if costs and len(costs) == len(values):
            error_bars(axes, curve(at, costs), curve(at, values), method, f"{title(method)}, n = 1", "none")
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("FLOPs per request (n grows to the right)")
    axes.set_ylabel(axis_title(metric))


def cost_of(rows: Sequence[Row], method: str, setting: str = "") -> list[float]:
    """FLOPs of a request to a policy that is sampled once; empty where they were not counted."""
    found = level(rows, method, "flops_per_request", setting)
    return [found.value] if found else []


def total_cost(
    axes: Axes,
    costs: Mapping[str, Costs],
    worth: Mapping[str, Interval],
    crossings: Mapping[str, Interval] | None = None,
    settings: Mapping[str, str] | None = None,
) -> None:
    """Total FLOPs against the number of requests: each tuned policy, best-of-n of equal gold reward, and where they cross.

    Args:
        axes: where to draw.
        costs: tuned method -> what it costs.
        worth: tuned method -> the n of equal gold reward.
        crossings: tuned method -> the requests at which they cross; from the other two unless given.
        settings: tuned method -> which of its settings this is, where it was swept.
    """
    for method, cost in costs.items():
        ns = np.arange(1, len(cost.best_of_n) + 1)
        each, low, high = (float(np.interp(min(float(n), len(ns)), ns, cost.best_of_n)) for n in worth[method])
        crossing = cost.training / max(each - cost.tuned, 1e-300)
        requests = np.geomspace(1, 100 * min(max(crossing, 10.0), 1e9), 200)
        axes.plot(requests, cost.training + requests * cost.tuned, linestyle=line_style(method), color=color_of(method),
                  label=called(method, (settings or {}).get(method, "")))  # fmt: skip
        n = worth[method].value
        equal = f"best-of-{float(n):.3g} (as good)" if np.isfinite(n) else f"best-of-{len(ns)} (not as good)"
        axes.plot(requests, requests * each, "-", color=color_of("best_of_n"), label=equal)
        axes.fill_between(requests, requests * low, requests * high, color=color_of("best_of_n"), alpha=0.2, linewidth=0)
        at = crossings[method] if crossings and method in crossings else break_even(cost, worth[method]).requests
        if np.isfinite(at.value):
            right = min(float(at.high), float(requests[-1]))
            total = cost.training + float(at.value) * cost.tuned
            axes.errorbar(
                [float(at.value)], [total], xerr=[[float(at.value - at.low)], [right - float(at.value)]], fmt="k|",
                markersize=7, capsize=2.5, elinewidth=1.0, zorder=5, label="break-even",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("requests")
    axes.set_ylabel("total FLOPs, training included")


def study_costs(results: Results) -> tuple[dict[str, Costs], dict[str, Interval], dict[str, Interval]]:
    """Costs, equivalent n and crossings of the first tuned method at its middle setting; empty where they are not known."""
    rows = results.rows
    for method in tuned_methods(rows)[:1]:
        setting = middle(settings(rows, method))
        found = results.compared(method, setting)
        training = select(rows, method=method, metric="training_flops", step=last_step(rows, method, setting), setting=setting)
        tuned, best = cost_of(rows, method, setting), over_n(rows, "best_of_n", "flops_per_request")
        if found and training and tuned and len(best.at) > 1:
            dense = np.interp(np.arange(1, best.at.max() + 1), best.at, best.value)
            crossing = {method: interval(found["break_even_requests"])} if "break_even_requests" in found else {}
            costs = Costs(training[0].value, tuned[0], dense)
            return {method: costs}, {method: interval(found["equivalent_n"])}, crossing
    return {}, {}, {}


def figure(results: Results) -> Figure:
    """Gold reward against FLOPs of a request, and the total over requests where it is known."""
    panels: list[Panel] = [partial(reward_vs_cost, rows=results.rows, metric="gold")]
    costs, worth, crossings = study_costs(results)
    if costs:
        shown = {method: middle(settings(results.rows, method)) for method in costs}
        panels.append(partial(total_cost, costs=costs, worth=worth, crossings=crossings, settings=shown))
    return page(panels, height=3.1)


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    rows, told = results.rows, []
    for method in tuned_methods(rows)[:1]:
        setting = middle(settings(rows, method))
        told = pays_off(results, method, setting)
    of = "".join(f" ({called(method, middle(settings(rows, method)))})" for method in tuned_methods(rows)[:1])
    best = over_n(rows, "best_of_n", "flops_per_request")
    spent = f"the base policy's costs {best.value[0]:.2g}, that of best-of-{int(best.at[-1])} {best.value[-1]:.2g}"
    return (
        f"Cost. Left: gold reward against FLOPs of a request (2 a weight and token, the proxy's reading included); {spent}. "
        "Dotted curves: best-of-n on top of each trained policy, which begin at its point. "
        f"Right: total FLOPs against requests, training included{of}. {' '.join(told)} Intervals: 95%, "
        f"{seeds_and_prompts(results)}."
    ).replace("  ", " ")


COST = StudyFigure(figure, caption, ("frontier", "smollm2"), place=4, needs="trained")
