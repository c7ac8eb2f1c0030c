"""Over-optimisation: proxy and gold reward against sqrt(KL), with the fits of Gao et al. (2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bon.tradeoffs.overoptimisation import Form, OveroptimisationFit
from suite.figures.page import StudyFigure, page
from suite.figures.style import color_of, marker
from suite.metrics.naming import called, title
from suite.metrics.results import Results, interval
from suite.metrics.rows import Row
from suite.metrics.series import Curve, over_n, over_training, settings, tuned_methods
from suite.metrics.text import fixed, parts, seeds_and_prompts

FORMS: dict[str, Form] = {"d (alpha - beta d)": "best_of_n", "d (alpha - beta log d)": "rl"}


def overoptimisation(axes: Axes, results: Results, method: str, setting: str = "") -> None:
    """Proxy and gold reward of best-of-n over n, or of a tuned policy over its training, less the base policy's."""
    for metric, face in (("proxy", "white"), ("gold", color_of(method))):
        kl, reward = points(results.rows, method, metric, setting)
        d, start = np.sqrt(np.maximum(kl.value, 0)), reward.value[0]
        dashes = "--" if metric == "proxy" else "-"
        few = len(d) <= 12
        axes.plot(d, reward.value - start, dashes, color=color_of(method), linewidth=1.2, label=f"{title(method)}, {metric}",
                  marker=marker(method) if few else "", markersize=3.5, markerfacecolor=face)  # fmt: skip
        axes.fill_between(d, reward.low - start, reward.high - start, color=color_of(method), alpha=0.15, linewidth=0)
    found = stored_fit(results.overoptimisation(method, setting))
    if found is not None:
        ends = np.linspace(1e-3, d.max(), 200)
        axes.plot(ends, found.gain(ends**2), color="black", linestyle=":", linewidth=1.1, label="fit to gold (Gao et al.)")
        if found.peak_is_measured:
            axes.axvline(float(found.peak.value), color="black", linewidth=0.5)
    axes.axhline(0.0, color="black", linewidth=0.4)
    axes.set_xlabel(r"$\sqrt{\mathrm{KL}}$ to the base policy ($\sqrt{\mathrm{nats}}$)")
    axes.set_ylabel("reward gained over the base policy")


def points(rows: Sequence[Row], method: str, metric: str, setting: str = "") -> tuple[Curve, Curve]:
    """KL and a reward: over n at the upper bound, or over training as measured."""
    if method == "best_of_n":
        return over_n(rows, method, "kl", kl_kind="bound"), over_n(rows, method, metric)
    return over_training(rows, method, metric, setting)


def stored_fit(over: Mapping[str, Any]) -> OveroptimisationFit | None:
    """The fit that `findings.json` holds, if there is one."""
    found = over.get("fit")
    if not found:
        return None
    alpha, beta, peak = (interval(found[name]) for name in ("alpha", "beta", "peak"))
    return OveroptimisationFit(FORMS[found["form"]], alpha, beta, peak, float(found["residual"]), float(found["largest_d"]))


def shown_settings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Best-of-n and, of every tuned method with a path, the setting that is optimised hardest."""
    tuned = [(method, settings(rows, method)[0]) for method in tuned_methods(rows)]
    return [("best_of_n", ""), *((m, s) for m, s in tuned if len(over_training(rows, m, "gold", s)[0].at) > 2)]


def figure(results: Results) -> Figure:
    """Best-of-n, and each tuned method."""
    return page(
        [
            partial(overoptimisation, results=results, method=method, setting=setting)
            for method, setting in shown_settings(results.rows)
        ],
        height=3.0,
    )


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    told = []
    for method, setting in shown_settings(results.rows):
        name = called(method, setting)
        fit = stored_fit(results.overoptimisation(method, setting))
        found = results.overoptimisation(method, setting)
        if fit is not None:
            told.append(f"{name}: alpha {parts(found['fit']['alpha'])}, beta {parts(found['fit']['beta'])}, {_peak(fit)}")
        if found:
            told.append(_contrast(name, found))
    return (
        "Over-optimisation: proxy and gold reward gained over the base policy against d, the square root of KL (best-of-n at "
        "its upper bound, trained policies as measured). Fits of gold: d (alpha - beta d) for best-of-n, d (alpha - beta log "
        f"d) for trained policies. {'; '.join(told)}. Bands: 95% intervals {seeds_and_prompts(results)}."
    )


def _peak(fit: OveroptimisationFit) -> str:
    if not np.isfinite(fit.peak.value):
        return "no peak"
    if not fit.peak_is_measured:
        return f"its peak beyond the largest d measured, {fixed(fit.largest, 1)}"
    return f"peak at d = {fixed(float(fit.peak.value), 1)}"


def _contrast(name: str, found: Mapping[str, Any]) -> str:
    contrast = found["contrast"]
    seeds = contrast["gold_change_of_each_seed"]
    each = f" (seeds: {', '.join(fixed(change, 2) for change in seeds)})" if len(seeds) > 1 else ""
    verdict = "gold falls while proxy rises" if found["declines"] else "no significant fall"
    return (
        f"{name}, from {fixed(contrast['since_kl'], 1)} nats (half of the last KL, set beforehand) to the end: gold changes "
        f"by {parts(contrast['gold_change'])}{each} while proxy changes by {parts(contrast['proxy_change'])}, {verdict}"
    )


OVEROPTIMISATION = StudyFigure(figure, caption, ("weak_proxy",))
