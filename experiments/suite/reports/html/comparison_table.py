"""The table of a run for a page: a line a metric, a column a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.metrics.naming import title
from suite.metrics.registry import OBJECTIVES
from suite.metrics.rows import Row, select
from suite.metrics.series import table_rows


@dataclass(frozen=True)
class Metric:
    """A line of the table: `name` as in `metrics.csv`; values are multiplied by `factor` and shown with `digits`."""

    name: str
    title: str
    meaning: str
    digits: int = 2
    factor: float = 1.0


@dataclass(frozen=True)
class Cell:
    """A number as it is shown. `interval` and `note` are blank where there is none."""

    value: str
    interval: str = ""
    note: str = ""


METRICS = (
    Metric("proxy", "Proxy reward", "logit; selects candidates and trains"),
    Metric("gold", "Gold reward", "logit; another judge, which only evaluates"),
    Metric("win_rate", "Win rate", "in gold reward against one response of the base policy, ties half"),
    Metric("kl", "KL to the base policy", "nats per response"),
    Metric("objective", "Objective", "proxy reward gained over the base policy less price x KL"),
    Metric("share_of_optimum", "Share of the optimum", "objective by the most that any policy can gain at this price"),
    Metric("beta", "Price of a nat", "the policy's own, or the one where its share is greatest"),
    Metric("perplexity", "Perplexity", "per token, under the base policy", 1),
    Metric("distinct_2", "Distinct-2", "distinct pairs of tokens over all pairs; low is repetitive"),
    Metric("length", "Length", "tokens per response", 1),
    Metric("tokens_per_request", "Tokens per request", "drawn to answer one prompt", 0),
    Metric("reward_tokens_per_request", "Reward-model tokens per request", "read by the proxy to answer one prompt", 0),
    Metric("flops_per_request", "GFLOPs per request", "of policy and proxy", 2, 1e-9),
    Metric("seconds_per_request", "Milliseconds per request", "drawn in batches on this machine", 1, 1000.0),
    Metric("training_tokens", "Training tokens", "drawn in training", 0),
    Metric("training_reward_tokens", "Reward-model tokens in training", "read by the proxy in training", 0),
    Metric("training_seconds", "Training seconds", "on this machine", 0),
)


def comparison_table(rows: Sequence[Row], n: int) -> tuple[list[str], list[tuple[Metric, list[Cell]]]]:
    """Titles of the methods, and for each metric a cell a method."""
    methods = table_rows(rows, n)
    lines = [(metric, [_cell(rows, metric, *method) for method in methods]) for metric in METRICS]
    return [title(method, n) for method, _, _ in methods], lines


def _cell(rows: Sequence[Row], metric: Metric, method: str, n: int, step: int | None) -> Cell:
    if metric.name.startswith("training"):
        if step is None:
            return Cell("0")
        method, n = method.split("+")[0], 1
    elif metric.name == "kl" and method == "base":
        return Cell("0")
    if metric.name in OBJECTIVES:
        return _objective_cell(rows, metric, method, step)
    found = select(rows, method=method, n=n, step=step, metric=metric.name)
    # Measured before bound: a bound beside a measured number is called one.
    for kind, note in ((None, ""), ("rao_blackwell", "measured"), ("bound", "upper bound")):
        for row in select(found, kl_kind=kind):
            return _shown(row, metric, note)
    return Cell("not defined")


def _objective_cell(rows: Sequence[Row], metric: Metric, method: str, step: int | None) -> Cell:
    """Of a trained policy, or of best-of-n at the n and price where its share is greatest."""
    share = metric.name == "share_of_optimum"
    for name, note in ((metric.name, ""), (f"{metric.name}_at_most", "at most"), (f"{metric.name}_at_least", "at least")):
        for row in select(rows, method=method, step=step, metric=name, setting=""):
            return _shown(row, metric, f"n = {row.n}" if method == "best_of_n" and not share else note)
    return Cell("not defined")


def _shown(row: Row, metric: Metric, note: str) -> Cell:
    value, low, high = (
        "" if part is None else f"{metric.factor * part:,.{metric.digits}f}" for part in (row.value, row.ci_low, row.ci_high)
    )
    # A number without error, such as the bound for one n, has no interval.
    certain = row.ci_low is None or row.ci_high is None or abs(row.ci_high - row.ci_low) <= 1e-9 * abs(row.value)
    return Cell(value.replace("-", "−"), "" if certain else f"{low} to {high}".replace("-", "−"), note)
