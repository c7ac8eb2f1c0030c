"""Tidy rows and pools to figures: one style, one colour a method, files that are the same byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from bon import Candidates
from bon.estimators import subset_weights
from bon.intervals import Interval
from suite.cost import Costs
from suite.evaluation import Row, select

DOUBLE_COLUMN = 6.75  # inches: the text width of a two-column conference page
#: Okabe and Ito's colours, told apart by readers with any colour vision; line styles tell them apart in grey.
COLOURS = {
    "base": "#555555",
    "best_of_n": "#0072B2",
    "ppo": "#D55E00",
    "rloo": "#CC79A7",
    "grpo": "#009E73",
    "bon_sft": "#E69F00",
}
TITLES = {"base": "base policy", "ppo": "PPO", "rloo": "RLOO", "grpo": "GRPO", "bon_sft": "best-of-n SFT"}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.hashsalt": "bon",
    "figure.dpi": 100,
}
LABELS = {"proxy": "proxy reward (logit)", "gold": "gold reward (logit)"}


def colour(method: str) -> str:
    """The colour of a method; best-of-n on top of a tuned policy has the tuned policy's."""
    return COLOURS.get(method.split("+")[0], "#56B4E9")


def title(method: str, n: int | None = None) -> str:
    """How a method is called in legends and tables."""
    best = "best-of-n" if n is None else f"best-of-{n}"
    if method == "best_of_n":
        return best
    first = method.split("+")[0]
    tuned = TITLES.get(first, first.upper())
    return f"{tuned} + {best}" if method.endswith("best_of_n") else tuned


def _curve(rows: Sequence[Row], method: str, metric: str, step: int | None = None) -> tuple[np.ndarray, ...]:
    """n, value, low and high of a method's curve, its n = 1 included."""
    first = "base" if method == "best_of_n" else method.removesuffix("+best_of_n")
    found = select(rows, method=first, metric=metric, n=1, step=step) + select(rows, method=method, metric=metric, step=step)
    found.sort(key=lambda row: row.n)
    return tuple(np.array([getattr(row, name) for row in found], dtype=float) for name in ("n", "value", "ci_low", "ci_high"))


def last_step(rows: Sequence[Row], method: str) -> int | None:
    """The last training update of a method that was evaluated."""
    return max((row.step for row in rows if row.method == method and row.step is not None), default=None)


def tuned_methods(rows: Sequence[Row]) -> list[str]:
    """Methods that are trained policies, in the order of the rows."""
    return list(dict.fromkeys(row.method for row in rows if row.step is not None and "+" not in row.method))


def reward_vs_n(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Reward against n: best-of-n of the base policy and of the tuned one as curves, the tuned one alone as a level."""
    n, value, low, high = _curve(rows, "best_of_n", metric)
    axes.plot(n, value, color=colour("best_of_n"), label=title("best_of_n"))
    axes.fill_between(n, low, high, color=colour("best_of_n"), alpha=0.2, linewidth=0)
    for method in tuned_methods(rows):
        step = last_step(rows, method)
        tuned = select(rows, method=method, metric=metric, n=1, step=step)[0]
        axes.axhline(tuned.value, color=colour(method), linestyle="--", label=title(method))
        axes.axhspan(tuned.ci_low, tuned.ci_high, color=colour(method), alpha=0.15, linewidth=0)  # type: ignore[arg-type]
        more, value, low, high = _curve(rows, f"{method}+best_of_n", metric, step)
        axes.plot(more, value, color=colour(method), linestyle=":", label=title(f"{method}+best_of_n"))
        axes.fill_between(more, low, high, color=colour(method), alpha=0.1, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(int(np.log2(n.max())) + 1)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("n (candidates a prompt)")
    axes.set_ylabel(LABELS[metric])


def reward_vs_kl(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Reward against KL to the base policy: best-of-n as curves (bound, and estimate), tuned policies over training."""
    _, value, low, high = _curve(rows, "best_of_n", metric)
    points = [row for row in rows if row.method in ("base", "best_of_n") and row.metric == "kl"]
    for kind, style, label in (("bound", "-", "best-of-n, KL upper bound"), ("beirami", "-.", "best-of-n, KL estimate")):
        kl = np.array([row.value for row in sorted(points, key=lambda row: row.n) if row.kl_kind == kind])
        axes.plot(kl, value, style, color=colour("best_of_n") if kind == "bound" else "black", linewidth=1.0, label=label)
        if kind == "bound":
            axes.fill_between(kl, low, high, color=colour("best_of_n"), alpha=0.2, linewidth=0)
    for method in tuned_methods(rows):
        kls = sorted(select(rows, method=method, metric="kl", kl_kind="rao_blackwell", n=1), key=lambda row: row.step or 0)
        rewards = {row.step: row for row in select(rows, method=method, metric=metric, n=1)}
        # Training begins at the base policy, at no KL.
        pairs = [(None, select(rows, method="base", metric=metric, n=1)[0])] + [(kl, rewards[kl.step]) for kl in kls]
        y = np.array([[reward.value, reward.ci_low, reward.ci_high] for _, reward in pairs], dtype=float)
        x = np.array([[0.0] * 3 if kl is None else [kl.value, kl.ci_low, kl.ci_high] for kl, _ in pairs], dtype=float)
        axes.errorbar(
            x[:, 0],
            y[:, 0],
            xerr=np.abs(x[:, 1:] - x[:, :1]).T,
            yerr=np.abs(y[:, 1:] - y[:, :1]).T,
            fmt="o--",
            markersize=3,
            linewidth=0.8,
            elinewidth=0.8,
            color=colour(method),
            label=f"{title(method)} over training, measured KL",
        )
    axes.set_xlabel("KL to the base policy (nats per response)")
    axes.set_ylabel(LABELS[metric])


def reward_distribution(axes: Axes, pools: dict[str, Candidates], n: int, metric: str) -> None:
    """Density of a reward over prompts and draws: base policy, best-of-n of it, tuned policies.

    A best-of-n density weighs every candidate of the pool by its probability to be the best of n.
    """
    base = pools["base"]
    shown = [("base", base, np.full(base.num_candidates, 1 / base.num_candidates))]
    shown.append(("best_of_n", base, subset_weights(base.num_candidates, n)))
    shown += [(m, pool, np.full(pool.num_candidates, 1 / pool.num_candidates)) for m, pool in pools.items() if m != "base"]
    edges = np.histogram_bin_edges(np.concatenate([pool.scores[metric].ravel() for _, pool, _ in shown]), bins=40)
    for (method, pool, weights), style in zip(shown, ("-", "-", "--", ":", "-."), strict=False):
        order = np.argsort(pool.scores["proxy"], axis=1, kind="stable")
        values = np.take_along_axis(pool.scores[metric], order, axis=1)
        height, _ = np.histogram(values, edges, weights=np.broadcast_to(weights, values.shape), density=True)
        axes.stairs(height, edges, color=colour(method), linestyle=style, linewidth=1.2, label=title(method, n))
        axes.stairs(height, edges, color=colour(method), alpha=0.12, fill=True)
    axes.set_xlabel(LABELS[metric])
    axes.set_ylabel("density")


def reward_vs_cost(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    """Reward against FLOPs of a request: best-of-n as curves over n, policies sampled once as points."""
    for method, step in [("best_of_n", None), *((m, last_step(rows, m)) for m in tuned_methods(rows))]:
        curve = method if method == "best_of_n" else f"{method}+best_of_n"
        _, cost, _, _ = _curve(rows, curve, "flops_per_request", step)
        _, value, low, high = _curve(rows, curve, metric, step)
        axes.plot(cost, value, "-" if method == "best_of_n" else ":", color=colour(method), label=title(curve))
        axes.fill_between(cost, low, high, color=colour(method), alpha=0.15, linewidth=0)
        axes.plot(cost[:1], value[:1], "o", markersize=4, color=colour(method if step is not None else "base"))
    axes.set_xscale("log")
    axes.set_xlabel("FLOPs per request (n grows to the right; points: n = 1)")
    axes.set_ylabel(LABELS[metric])


def total_cost(axes: Axes, costs: Mapping[str, Costs], worth: Mapping[str, Interval]) -> None:
    """Total FLOPs against the number of requests: each tuned policy, and best-of-n of equal gold reward with its interval."""
    for method, cost in costs.items():
        ns = np.arange(1, len(cost.best_of_n) + 1)
        each, low, high = (float(np.interp(min(float(n), len(ns)), ns, cost.best_of_n)) for n in worth[method])
        crossing = cost.training / max(each - cost.tuned, 1e-300)
        requests = np.geomspace(1, 100 * min(max(crossing, 10.0), 1e9), 200)
        axes.plot(requests, cost.training + requests * cost.tuned, "--", color=colour(method), label=title(method))
        n = worth[method].value
        equal = f"best-of-{float(n):.3g} (as good)" if np.isfinite(n) else f"best-of-{len(ns)} (not as good)"
        axes.plot(requests, requests * each, "-.", color=colour("best_of_n"), label=equal)
        axes.fill_between(requests, requests * low, requests * high, color=colour("best_of_n"), alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("requests")
    axes.set_ylabel("total FLOPs, training included")


def draw_figures(
    rows: Sequence[Row],
    pools: dict[str, Candidates],
    n: int,
    folder: Path,
    costs: Mapping[str, Costs] | None = None,
    worth: Mapping[str, Interval] | None = None,
) -> list[Path]:
    """The figures of a run as PNG and PDF in `folder`; returns the PNG files.

    `costs` and `worth` are, for every tuned method, what it costs and the n it is worth; without them there is no figure of
    costs.
    """
    both: dict[str, Callable[..., None]] = {
        "reward_vs_n": lambda axes, metric: reward_vs_n(axes, rows, metric),
        "reward_vs_kl": lambda axes, metric: reward_vs_kl(axes, rows, metric),
        "reward_distribution": lambda axes, metric: reward_distribution(axes, pools, n, metric),
    }
    files = [
        _two_panels(name, [partial(draw, metric=metric) for metric in ("proxy", "gold")], folder)
        for name, draw in both.items()
    ]
    if costs and worth:
        panels = [partial(reward_vs_cost, rows=rows, metric="gold"), partial(total_cost, costs=costs, worth=worth)]
        files.append(_two_panels("cost", panels, folder))
    return files


def _two_panels(name: str, draw: Sequence[Callable[[Axes], None]], folder: Path) -> Path:
    """Two panels side by side, their legend above both, where it covers nothing."""
    with mpl.rc_context(mpl.rcParamsDefault), mpl.rc_context(STYLE):
        figure = Figure(figsize=(DOUBLE_COLUMN, 2.7))
        panels = figure.subplots(1, 2)
        for axes, draw_panel in zip(panels, draw, strict=True):
            draw_panel(axes)
        entries = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=min(3, len(entries)))
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "ModDate": None})
    return folder / f"{name}.png"
