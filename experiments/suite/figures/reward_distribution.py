"""Densities of a reward over prompts and draws: base policy, best-of-n, tuned policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bon.estimators import subset_weights
from suite.figures.page import StudyFigure, page
from suite.figures.style import color_of, line_style
from suite.metrics.naming import axis_title, called, title
from suite.metrics.results import Results, Scored, command
from suite.metrics.series import middle, settings, tuned_methods
from suite.runtime.errors import UserError

BINS = 40
#: The n of a study's figure, up to a quarter of its pool: beyond, a density hangs on a few candidates of each prompt.
SHOWN_N = (8, 64)
_BEST_LINES: tuple[Any, ...] = ("-", (0, (7, 2)))


def reward_distribution(axes: Axes, pools: Mapping[str, Scored], ns: int | Sequence[int], metric: str) -> None:
    """Density of a reward. A best-of-n density weighs every candidate of the pool by its probability to be the best of n.

    Args:
        axes: where to draw.
        pools: method -> pool; `base` among them.
        ns: the n of best-of-n.
        metric: the score that is shown; `proxy` selects.
    """
    base = pools["base"]
    shown: list[tuple[str, str, Any, Scored, NDArray[np.float64]]] = [
        ("base", title("base"), line_style("base"), base, _evenly(base))
    ]
    for n, dashes in zip([ns] if isinstance(ns, int) else ns, _BEST_LINES, strict=False):
        weights = subset_weights(base.scores["proxy"].shape[1], n)
        shown.append(("best_of_n", title("best_of_n", n), dashes, base, weights))
    shown += [(m, title(m), line_style(m), pool, _evenly(pool)) for m, pool in pools.items() if m != "base"]
    edges = np.histogram_bin_edges(np.concatenate([pool.scores[metric].ravel() for *_, pool, _ in shown]), bins=BINS)
    for method, label, dashes, pool, weights in shown:
        order = np.argsort(pool.scores["proxy"], axis=1, kind="stable")
        values = np.take_along_axis(pool.scores[metric], order, axis=1)
        height, _ = np.histogram(values, edges, weights=np.broadcast_to(weights, values.shape), density=True)
        axes.stairs(height, edges, color=color_of(method), linestyle=dashes, linewidth=1.2, label=label)
        axes.stairs(height, edges, color=color_of(method), alpha=0.1, fill=True)
    axes.set_xlabel(axis_title(metric))
    axes.set_ylabel("density")


def shown_pools(results: Results) -> tuple[dict[str, Scored], dict[str, str]]:
    """The base policy's pool and that of the first tuned method, at its middle setting; and those settings.

    Raises:
        UserError: the base policy's pool is missing.
    """
    base = results.pool("base")
    if base is None:
        missing = f"{results.folder}/candidates/base.parquet is missing"
        raise UserError(f"{results.study}: {missing}; {command(results.study, True)} makes it")
    pools: dict[str, Scored] = {"base": base}
    chosen = {}
    for method in tuned_methods(results.rows)[:1]:
        setting = middle(settings(results.rows, method))
        if (pool := results.pool(method, setting)) is not None:
            pools[method], chosen[method] = pool, setting
    return pools, chosen


def figure(results: Results) -> Figure:
    """Proxy reward and gold reward."""
    pools, _ = shown_pools(results)
    ns = _reached(pools["base"])
    return page([partial(reward_distribution, pools=pools, ns=ns, metric=metric) for metric in ("proxy", "gold")])


def caption(results: Results) -> str:
    """Say in numbers what the figure shows."""
    pools, chosen = shown_pools(results)
    base = pools["base"]
    gold = np.take_along_axis(base.scores["gold"], np.argsort(base.scores["proxy"], axis=1, kind="stable"), axis=1)
    told = [f"base policy {_share(gold, _evenly(base))}"]
    told += [f"{title('best_of_n', n)} {_share(gold, subset_weights(gold.shape[1], n))}" for n in _reached(base)]
    for method, setting in chosen.items():
        name = called(method, setting)
        told.append(f"{name} {_share(pools[method].scores['gold'], _evenly(pools[method]))}")
    prompts, candidates = gold.shape
    return (
        f"Densities of proxy and gold reward over {prompts} prompts. Best-of-n weighs each of the {candidates} candidates of "
        f"a prompt by its probability to be the best of n. Share of responses with a gold reward above 0: {'; '.join(told)}."
    )


def _reached(base: Scored) -> list[int]:
    candidates = base.scores["proxy"].shape[1]
    return [n for n in SHOWN_N if 4 * n <= candidates] or [candidates]


def _evenly(pool: Scored) -> NDArray[np.float64]:
    candidates = pool.scores["proxy"].shape[1]
    return np.full(candidates, 1 / candidates)


def _share(values: NDArray[np.float64], weights: NDArray[np.float64]) -> str:
    return f"{((values > 0) @ weights).mean():.0%}"


REWARD_DISTRIBUTION = StudyFigure(figure, caption, ("frontier", "smollm2"), place=8)
