"""Training curves: reward, KL, entropy and objective of the responses that trainings drew, with the optimum as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from suite.figures.page import Panel, StudyFigure, page
from suite.figures.style import color_of, line_style
from suite.metrics.naming import called
from suite.metrics.optimum_series import optimum_objective
from suite.metrics.results import Results
from suite.metrics.rows import Row
from suite.metrics.series import level, settings, tuned_methods

Array = NDArray[np.float64]
LABELS = {
    "score": "proxy reward of roll-outs (logit)",
    "kl": "KL of roll-outs (nats)",
    "entropy": "entropy (nats per token)",
    "objective": "objective gained (logit)",
    "share": "objective / optimum",
}
#: Updates are averaged over so many parts of a training.
PARTS = 40
#: Shares below are not drawn: the axis is for those that gain.
LOWEST_SHARE = -0.5


@dataclass(frozen=True)
class Lines:
    """The trainings of one method and setting.

    Attributes:
        method, setting: which.
        beta: price of a nat that their objective is taken at; None where there is none.
        reference: mean proxy reward of the base policy.
        optimum: what the optimum gains, or at least gains, at that price; None where it is not known.
        curves: of each seed, as `suite.metrics.updates.training_curves` names them.
    """

    method: str
    setting: str
    beta: float | None
    reference: float
    optimum: float | None
    curves: Sequence[Mapping[str, Array]]

    def of(self, name: str) -> tuple[Array, Array]:
        """Updates [K] and a curve of every seed [S, K], averaged over parts of the training; NaN where there is none."""
        width = max(len(self.curves[0]["update"]) // PARTS, 1)
        every = [self._curve(each, name) for each in self.curves]
        shortest = min(map(len, every)) // width * width
        update = self.curves[0]["update"][:shortest].reshape(-1, width).mean(1)
        return update, np.stack([each[:shortest].reshape(-1, width).mean(1) for each in every])

    def _curve(self, curves: Mapping[str, Array], name: str) -> Array:
        if name not in ("objective", "share"):
            return curves[name]
        if self.beta is None:
            return np.full(len(curves["update"]), np.nan)
        objective = curves["score"] - self.beta * curves["kl"] - self.reference
        return objective if name == "objective" else objective / (self.optimum or np.nan)


def training_lines(rows: Sequence[Row], curves: Mapping[tuple[str, str], Sequence[Mapping[str, Array]]]) -> list[Lines]:
    """The trainings whose curves (method, setting) -> seeds are known."""
    base = level(rows, "base", "proxy")
    lines = []
    for method in tuned_methods(rows):
        for setting in settings(rows, method):
            if known := curves.get((method, setting)):
                beta = level(rows, method, "beta", setting)
                best = None if beta is None else optimum_objective(rows, beta.value)
                at = None if beta is None else beta.value, 0.0 if base is None else base.value
                lines.append(Lines(method, setting, *at, None if best is None else best.value, known))
    return lines


def training(axes: Axes, lines: Sequence[Lines], name: str) -> None:
    """One curve of every training: the mean over seeds, shaded from the lowest to the highest seed."""
    for each, colors in zip(lines, _colors(lines), strict=True):
        update, values = each.of(name)
        if np.isnan(values).all():
            continue
        shown = np.where(np.isnan(values), np.nan, values)
        style = {"color": colors, "linestyle": line_style(each.method)}
        axes.plot(update, shown.mean(0), **style, linewidth=1.1, label=called(each.method, each.setting))
        if len(shown) > 1:
            axes.fill_between(update, shown.min(0), shown.max(0), color=colors, alpha=0.15, linewidth=0)
    best = lines[0].optimum if name == "objective" and lines else None
    if best is not None:
        axes.axhline(best, color=color_of("optimum"), linestyle=line_style("optimum"), linewidth=0.8, label="optimum")
    if name == "share":
        axes.axhline(1.0, color=color_of("optimum"), linestyle=line_style("optimum"), linewidth=0.8, label="optimum")
        axes.set_ylim(max(axes.get_ylim()[0], LOWEST_SHARE), 1.08)
    axes.set_xlim(left=0)
    axes.set_xlabel("update")
    axes.set_ylabel(LABELS[name])


def panels(lines: Sequence[Lines]) -> list[Panel]:
    """Reward, KL, entropy, and the objective: by the optimum's where several prices are compared."""
    last = "objective" if len(lines) == 1 else "share"
    return [partial(training, lines=lines, name=name) for name in ("score", "kl", "entropy", last)]


def _colors(lines: Sequence[Lines]) -> list[Any]:
    """The color of each line: of settings of one method, from light to dark."""
    found = []
    for each in lines:
        same = [other.setting for other in lines if other.method == each.method]
        dark = 1.0 if len(same) == 1 else 0.35 + 0.65 * same.index(each.setting) / (len(same) - 1)
        rgb = np.array(mpl.colors.to_rgb(color_of(each.method)))
        found.append(tuple(1 - dark * (1 - rgb) if dark < 1 else rgb))
    return found


def figure(results: Results) -> Figure:
    """Two by two."""
    return page(panels(training_lines(results.rows, results.training_curves())), columns=2, height=4.4)


def caption(results: Results) -> str:
    """Say what the figure shows."""
    lines = training_lines(results.rows, results.training_curves())
    count = sum(len(each.curves) for each in lines)
    return (
        f"What {count} trainings drew on training prompts, update by update, means over {PARTS} parts of each: proxy reward, "
        "KL to the base policy, entropy, and the objective (reward gained over the base policy's on evaluation prompts less "
        "price x KL) by what the optimum gains at that price. Lines: means over training seeds; shading: from the lowest seed "
        "to the highest. Trainers that log no KL are left out of the panels that need it."
    )


TRAINING = StudyFigure(figure, caption, ("frontier", "smollm2"), place=6, needs="logs")
