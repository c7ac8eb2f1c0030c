"""The figures of one run of `experiments/run.py`, from its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from omegaconf import OmegaConf

from bon import Candidates
from bon.intervals import Interval
from suite.figures.cost import reward_vs_cost, study_costs, total_cost
from suite.figures.page import Panel, page, save
from suite.figures.reward_distribution import reward_distribution
from suite.figures.reward_vs_kl import reward_vs_kl
from suite.figures.reward_vs_n import reward_vs_n
from suite.figures.style import styled
from suite.figures.training import Lines, training_lines
from suite.figures.training import panels as training_panels
from suite.metrics.cost import Costs
from suite.metrics.naming import BOUNDED_SHARE
from suite.metrics.results import Results, Scores
from suite.metrics.rows import Row
from suite.metrics.series import tuned_methods


def draw_run(folder: Path) -> list[Path]:
    """Draw the figures of a run from what it wrote into its folder; returns the PNG files, the same bytes on each drawing."""
    results = Results.load(folder.name, folder)
    pools = {method: pool for method in ("base", *tuned_methods(results.rows)) if (pool := results.pool(method)) is not None}
    costs, worth, _ = study_costs(results)
    n = int(OmegaConf.load(folder / "config.yaml").n)
    # Runs of earlier versions have no objective, so no figure of it.
    shown = any(row.metric in BOUNDED_SHARE.values() for row in results.rows)
    lines = training_lines(results.rows, results.training_curves()) if shown else []
    return draw_figures(results.rows, pools, n, folder / "figures", costs, worth, lines)


def draw_figures(
    rows: Sequence[Row],
    pools: Mapping[str, Candidates | Scores],
    n: int,
    folder: Path,
    costs: Mapping[str, Costs] | None = None,
    worth: Mapping[str, Interval] | None = None,
    lines: Sequence[Lines] = (),
) -> list[Path]:
    """The figures of a run as PNG, PDF and SVG in `folder`; returns the PNG files.

    `costs` and `worth` are, for every tuned method, what it costs and the n it is worth; without them there is no figure of
    costs. `lines` are the curves of its training; without them there is no figure of these.
    """
    both: dict[str, Callable[..., None]] = {
        "reward_vs_n": partial(reward_vs_n, rows=rows),
        "reward_vs_kl": partial(reward_vs_kl, rows=rows),
        "reward_distribution": partial(reward_distribution, pools=pools, ns=n),
    }
    judges = [name for name in ("proxy", "gold") if name in pools["base"].scores]
    pages: dict[str, list[Panel]] = {name: [partial(draw, metric=metric) for metric in judges] for name, draw in both.items()}
    if costs and worth:
        pages["cost"] = [partial(reward_vs_cost, rows=rows, metric=judges[-1]), partial(total_cost, costs=costs, worth=worth)]
    with styled():
        files = [save(page(panels), name, folder)[0] for name, panels in pages.items()]
        if lines:
            files.append(save(page(training_panels(lines), columns=2, height=4.4), "training", folder)[0])
    return files
