"""TRL's notebook done right: how often so few prompts find what is true, and what its label does to best-of-n."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from suite.figures.page import StudyFigure, page
from suite.figures.style import color_of, line_style, marker
from suite.metrics.naming import axis_title, called, title
from suite.metrics.results import Results
from suite.metrics.rows import Row, select
from suite.metrics.series import curve
from suite.metrics.text import number, seeds_and_prompts

#: Ends the setting of rows whose best-of-n the winning label's score selected.
WRONG = " label=winning"


def compared(detection: Mapping[str, Any]) -> tuple[str, str]:
    """Method and setting of what best-of-n is compared with: `best_of_n - ppo kl_coef=0.2`."""
    method, _, setting = detection["comparison"].partition(" - ")[2].partition(" ")
    return method, setting


def detections(results: Results) -> list[Mapping[str, Any]]:
    """Best-of-n against the base policy and against the first trained one."""
    found = results.findings.get("detection", [])
    trained = [each for each in found if compared(each)[0] != "base"]
    return [*(each for each in found if compared(each)[0] == "base"), *trained[:1]]


def share_found(axes: Axes, results: Results) -> None:
    """Share of studies with so many prompts that find the true sign of a difference, significantly."""
    for each in detections(results):
        method, setting = compared(each)
        counts = [point["num_prompts"] for point in each["by_prompts"]]
        shares = [point["significant_right"] for point in each["by_prompts"]]
        axes.plot(counts, shares, linestyle=line_style(method), marker=marker(method), markersize=3.5, color=color_of(method),
                  label=f"against {called(method, setting)}")  # fmt: skip
    axes.axvline(results.findings["protocol_prompts"], color="black", linewidth=0.6)
    counts = sorted({point["num_prompts"] for each in detections(results) for point in each["by_prompts"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("prompts of a study (line: the notebook's)")
    axes.set_ylabel("studies with the right\nsignificant difference")


def bars(results: Results) -> list[tuple[str, Row]]:
    """(name, gold reward) of the base policy, best-of-n selected by either label, and the first trained policy."""
    gold, n = select(results.rows, metric="gold"), int(results.findings["n"])
    every = f"num_prompts={max(point['num_prompts'] for each in detections(results) for point in each['by_prompts'])}"
    shown = [(title("base"), select(gold, method="base", n=1, setting=every))]
    shown += [(f"{title('best_of_n', n)},\nright label", select(gold, method="best_of_n", n=n, setting=every))]
    shown += [(f"{title('best_of_n', n)},\nwinning label", select(gold, method="best_of_n", n=n, setting=every + WRONG))]
    for each in detections(results)[1:]:
        method, setting = compared(each)
        of = select(gold, method=method, n=1, setting=every)
        shown.append((called(method, setting).replace(" at ", "\n"), of))
    return [(name, found[0]) for name, found in shown]


def gold_by_label(axes: Axes, results: Results) -> None:
    """Gold reward of what either reward selects; open where the winning label's did."""
    for at, (_, row) in enumerate(bars(results)):
        point = curve([at], [row])
        axes.errorbar(point.at, point.value, yerr=[point.value - point.low, point.high - point.value], fmt=marker(row.method),
                      markersize=5, elinewidth=1.0, color=color_of(row.method),
                      markerfacecolor="white" if row.setting.endswith(WRONG) else color_of(row.method))  # fmt: skip
    names = [name for name, _ in bars(results)]
    axes.axhline(0.0, color="black", linewidth=0.4)
    axes.set_xticks(range(len(names)), names, fontsize=6)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(axis_title("gold"))


def figure(results: Results) -> Figure:
    """What few prompts find, and what the label does."""
    return page([partial(share_found, results=results), partial(gold_by_label, results=results)], height=2.7)


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    few, told = results.findings["protocol_prompts"], []
    for each in detections(results):
        truth, points = each["truth"], each["by_prompts"]
        first, last = points[0], points[-1]
        told.append(
            f"against {called(*compared(each))} best-of-n differs by {truth['value']:.2f} [{truth['low']:.2f}, "
            f"{truth['high']:.2f}], which {first['significant_right']:.0%} of studies with {first['num_prompts']} prompts and "
            f"{last['significant_right']:.0%} with {last['num_prompts']} find"
        )
    values = "; ".join(f"{' '.join(name.split())} {number(row)}" for name, row in bars(results))
    return (
        "TRL's best-of-n notebook done right. Left: share of studies of one draw a prompt that find the difference in gold "
        f"reward significantly and with its sign; the notebook had {few} prompts: {'; '.join(told)}. Right: gold reward where "
        f"the label's logit selects, and where the score of the winning label does, as in the notebook: {values}. Intervals: "
        f"95%, {seeds_and_prompts(results)}."
    )


NOTEBOOK = StudyFigure(figure, caption, ("notebook",))
