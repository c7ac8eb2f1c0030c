"""Text that a run prints: before it starts, its table, its sentence, its samples; on the terminal and in `samples.md`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from suite.analysis.findings import sentences
from suite.analysis.objective_words import objective_sentences
from suite.comparison.compare import Outcome
from suite.comparison.setup import Comparison
from suite.config.run import RunConfig
from suite.metrics.naming import BOUNDED_SHARE, title
from suite.metrics.optimum_series import best_of_n_at_best, share_of
from suite.metrics.rows import Row, select
from suite.metrics.samples import SAMPLE_COLUMNS
from suite.metrics.series import table_rows
from suite.runtime.paths import shown_path

_MEASURED_KL = ("rao_blackwell", "bound")


def plan(comparison: Comparison, tracking: str) -> str:
    """Say what is about to happen, on what, and where it goes."""
    config = comparison.config
    judges = ", ".join(f"{name} {judge.parameters / 1e6:.1f} M" for name, judge in comparison.judges.items())
    use = (
        "proxy selects and trains, gold only evaluates" if "gold" in comparison.judges else "it selects, trains and evaluates"
    )
    baseline = config.baseline
    compared = "nothing" if baseline.name == "none" else f"{title(baseline.name)} ({baseline.told()})"
    return "\n".join(
        [
            f"best-of-{config.n} against {compared}",
            f"  policy    {config.policy.name} ({shown_path(comparison.policy.folder)}), "
            f"{comparison.policy.parameters / 1e6:.1f} M parameters, {comparison.device}, {comparison.dtype}",
            f"  rewards   {config.reward.name}: {judges} parameters; {use}",
            f"  prompts   {config.num_prompts} of {config.task.name} (evaluation split), {config.num_candidates} candidates "
            f"each, {config.sampling.max_new_tokens} new tokens at temperature {config.sampling.temperature}",
            f"  results   {comparison.folder}",
            f"  tracking  {tracking}",
        ]
    )


def next_steps(config: RunConfig) -> str:
    """Commands worth trying after this one."""
    other = {"none": "baseline=ppo", "bon_sft": "baseline.best_of=16", "ppo": "baseline=rloo", "published": "baseline=ppo"}
    further = other.get(config.baseline.name, "baseline.kl_coef=0.02")
    return f"python experiments/run.py n={2 * config.n}, or seed={config.seed + 1}, or {further}, or --help"


def table(outcome: Outcome, n: int, style: str = "simple") -> str:
    """One row a method, every mean with its 95% interval below it. RM, the reward model, is the proxy."""
    judges = [judge for judge in ("proxy", "gold") if select(outcome.rows, metric=judge)]
    headers = ["method", *(f"{judge}\nreward" for judge in judges), "win rate\nvs base", "KL to base\n(nats)",
               "share of\noptimum",
               "length\n(tokens)", "distinct-2", "tokens /\nrequest",
               "RM tokens /\nrequest", "ms /\nrequest", "training\ntokens", "training\nRM tokens",
               "training\nseconds"]  # fmt: skip
    lines = []
    for method, k, step in table_rows(outcome.rows, n):
        found = select(outcome.rows, method=method, n=k, step=step)
        training = select(outcome.rows, method=method.split("+")[0], step=step)
        lines.append(
            [
                title(method, n),
                *(_cell(found, judge) for judge in judges),
                _cell(found, "win_rate"),
                _kl_cell(found, method),
                _share_cell(outcome.rows, method),
                _cell(found, "length", 1),
                _cell(found, "distinct_2"),
                _cell(found, "tokens_per_request", 0),
                _cell(found, "reward_tokens_per_request", 0),
                f"{1000 * _one(found, 'seconds_per_request').value:.1f}",
                *("0" if step is None else _spent(training, unit) for unit in ("tokens", "reward_tokens", "seconds")),
            ]
        )
    return tabulate(lines, headers=headers, tablefmt=style, disable_numparse=True)


def verdict(outcome: Outcome) -> str:
    """Say what was found, a sentence each."""
    lines = sentences(outcome.findings, outcome.overoptimisation, outcome.pools["base"].num_prompts)
    if outcome.yardstick is not None:
        lines += objective_sentences(outcome.yardstick, outcome.objectives)
    lines += [f"WARNING: in training, {text}" for text in outcome.warnings.values()]
    if not outcome.findings:
        lines.insert(0, "No baseline was trained: nothing to compare best-of-n with.")
    if not select(outcome.rows, metric="gold"):
        lines.append(
            "There is no gold reward: the proxy judges what it selected and trained, so over-optimisation cannot be seen."
        )
    return "\n".join(lines)


def samples(table_of_samples: Sequence[Sequence[Any]], style: str = "simple") -> str:
    """Sample responses side by side."""
    widths = None if style == "github" else [22, 26, 6, 26, 6, 26, 6]
    rows = [[_one_line(cell) if isinstance(cell, str) else cell for cell in row] for row in table_of_samples]
    return tabulate(rows, headers=SAMPLE_COLUMNS, tablefmt=style, maxcolwidths=widths, disable_numparse=True)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _one(rows: Sequence[Row], metric: str) -> Row:
    return next(row for row in rows if row.metric == metric)


def _spent(rows: Sequence[Row], unit: str) -> str:
    """Write what training took, where it is known."""
    known = select(rows, metric=f"training_{unit}")
    return f"{known[0].value:,.0f}" if known else "not known"


def _cell(rows: Sequence[Row], metric: str, digits: int = 2) -> str:
    row = _one(rows, metric)
    if row.ci_low is None:
        return f"{row.value:.{digits}f}"
    return f"{row.value:.{digits}f}\n[{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"


def _share_cell(rows: Sequence[Row], method: str) -> str:
    """The share of the optimum of a trained policy at its own price, of best-of-n at its best one: with the best n there."""
    best = best_of_n_at_best(rows)
    if method == "best_of_n" and best is not None:
        return f"{best.share.value:.0%}\n(n={best.share.n}, {best.beta:g} a nat)"
    row = None if "+" in method or method in ("base", "best_of_n") else share_of(rows, method)
    if row is None:
        return ""
    bound = {BOUNDED_SHARE["upper"]: "≤ ", BOUNDED_SHARE["lower"]: "≥ "}.get(row.metric, "")
    return f"{bound}{row.value:.0%}\n[{row.ci_low:.0%}, {row.ci_high:.0%}]"


def _kl_cell(rows: Sequence[Row], method: str) -> str:
    if method == "base":
        return "0"
    for kind in _MEASURED_KL:
        for row in select(rows, metric="kl", kl_kind=kind):
            if row.ci_low is None or row.ci_high is None or math.isclose(row.ci_low, row.ci_high):
                return f"{row.value:.2f}\n(bound)"
            return (
                f"{row.value:.2f} ({'measured' if kind == 'rao_blackwell' else kind})\n[{row.ci_low:.2f}, {row.ci_high:.2f}]"
            )
    return "not defined"
