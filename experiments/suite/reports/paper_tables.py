"""The headline comparison as a table, in Markdown and LaTeX (booktabs): a line a method, a number and its interval a cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from suite.metrics.naming import BOUNDED_SHARE, title
from suite.metrics.optimum_series import best_of_n_at_best
from suite.metrics.results import Results
from suite.metrics.rows import Row, select
from suite.metrics.series import MEASURED, last_step, middle, settings, tuned_methods
from suite.metrics.text import ends_of, number

COLUMNS = ("method", "n or kl_coef", "gold reward", "win rate", "KL (nats)", "perplexity", "distinct-2", "tokens per request")
METRICS = ("gold", "win_rate", "kl", "perplexity", "distinct_2", "tokens_per_request")
#: After KL, where rows have it.
SHARE, SHARE_TITLE = "share_of_optimum", "share of optimum"
#: The n of the table, as far as the pool reaches; and the greatest.
NS = (8, 64)
#: What Markdown and LaTeX set before a KL that is an upper bound.
AT_MOST = {"github": "≤ ", "latex": r"$\le$ "}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


class Cell(NamedTuple):
    """A number as it is written, and its interval; either may be empty."""

    value: str
    ends: str = ""
    bound: bool = False


def metrics_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns of numbers that rows have: those of `METRICS`, with the share of the optimum where there is one."""
    there = any(row.metric in BOUNDED_SHARE.values() for row in rows)
    return (*METRICS[:3], SHARE, *METRICS[3:]) if there else METRICS


def lines(rows: Sequence[Row], trained: int | None = None, metrics: Sequence[str] = METRICS) -> list[list[Cell]]:
    """Return the cells of every line: base policy, best-of-n, each tuned policy by setting, and best-of-n on top of each.

    Args:
        rows: over all seeds.
        trained: show so many tuned methods, each at its middle setting and once; all unless given.
        metrics: the columns of numbers.
    """
    largest = max(row.n for row in rows if row.method == "best_of_n" and row.metric in METRICS)
    shown: list[tuple[str, int, int | None, str]] = [("base", 1, None, "")]
    ns = {*(n for n in NS if n < largest), largest}
    if SHARE in metrics and (best := best_of_n_at_best(rows)) is not None and best.share.n <= largest:
        ns.add(best.share.n)
    shown += [("best_of_n", n, None, "") for n in sorted(ns)]
    for method in tuned_methods(rows)[:trained]:
        chosen = settings(rows, method) if trained is None else [middle(settings(rows, method))]
        shown += [(method, 1, last_step(rows, method, setting), setting) for setting in chosen]
    for method in tuned_methods(rows) if trained is None else ():
        top = f"{method}+best_of_n"
        for setting in settings(rows, method):
            drawn = [row.n for row in rows if (row.method, row.setting) == (top, setting)]
            shown += [(top, max(drawn), last_step(rows, method, setting), setting)] if drawn else []
    return [
        _line(select(rows, method=m, n=n, step=step, setting=setting), m, n, setting, metrics) for m, n, step, setting in shown
    ]


def markdown(rows: Sequence[Row], trained: int | None = None, metrics: Sequence[str] | None = None) -> str:
    """Return a table for GitHub, intervals below their numbers; arguments as of `lines`, all metrics unless given."""
    metrics = metrics_of(rows) if metrics is None else metrics
    shown = lines(rows, trained, metrics)
    cells = [["<br>".join(filter(None, (_bounded(cell, "github"), cell.ends))) for cell in line] for line in shown]
    return tabulate(cells, headers=_headers(metrics), tablefmt="github", disable_numparse=True)


def latex(rows: Sequence[Row]) -> str:
    """A `tabular` for booktabs; intervals stand in a smaller line below their numbers."""
    body, metrics = [], metrics_of(rows)
    for line in lines(rows, metrics=metrics):
        body.append(" & ".join(_bounded(cell, "latex") for cell in line) + r" \\")
        # A line that begins with a bracket would be an argument of the \\ before it: the first cell is empty.
        ends = " & ".join(rf"{{\scriptsize {_minus(escaped(cell.ends))}}}" if cell.ends else "" for cell in line)
        body += [ends + r" \\"] if any(cell.ends for cell in line) else []
    head = " & ".join(escaped(column) for column in _headers(metrics)) + r" \\"
    rules = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{ll{'r' * len(metrics)}}}", *rules, r"\end{tabular}"])


def write(results: Results, folder: Path) -> list[Path]:
    """`table.md` and `table.tex` in `folder`."""
    files = []
    for name, text in (("table.md", markdown(results.rows)), ("table.tex", latex(results.rows))):
        file, temporary = folder / name, folder / f".{name}"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(file)
        files.append(file)
    return files


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _headers(metrics: Sequence[str]) -> list[str]:
    titles = {**dict(zip(METRICS, COLUMNS[2:], strict=True)), SHARE: SHARE_TITLE}
    return [*COLUMNS[:2], *(titles[metric] for metric in metrics)]


def _line(found: Sequence[Row], method: str, n: int, setting: str, metrics: Sequence[str]) -> list[Cell]:
    swept = ", ".join(filter(None, (f"n = {n}" if n > 1 else "", setting.partition("=")[2])))
    return [Cell(title(method)), Cell(swept), *(_cell(found, metric, method) for metric in metrics)]


def _cell(found: Sequence[Row], metric: str, method: str) -> Cell:
    if metric == "kl" and method == "base":
        return Cell("0")
    if metric == SHARE:
        return _share(found)
    kinds = (MEASURED, "bound") if metric == "kl" else (None,)
    chosen = [row for kind in kinds for row in found if row.metric == metric and row.kl_kind == kind]
    if not chosen:
        return Cell("–")
    return Cell(number(chosen[0], interval=False), ends_of(chosen[0]), chosen[0].kl_kind == "bound")


def _share(found: Sequence[Row]) -> Cell:
    """In percent; of a policy that loses, where the optimum is not known, nothing: its share is a bound from below."""
    for row in found:
        if row.metric in (SHARE, BOUNDED_SHARE["upper"]):
            ends = "" if row.ci_low is None or row.ci_high is None else f"[{row.ci_low:.0%}, {row.ci_high:.0%}]"
            return Cell(f"{row.value:.0%}", ends, row.metric != SHARE)
    return Cell("–")


def _bounded(cell: Cell, style: str) -> str:
    text = _minus(escaped(cell.value)) if style == "latex" else cell.value
    return (AT_MOST[style] if cell.bound else "") + text


def _minus(text: str) -> str:
    """A minus for a hyphen that stands before a digit, and a dash in LaTeX's own spelling."""
    numbers = text.replace("[-", "[$-$").replace(", -", ", $-$").replace("–", "--")
    return f"$-${numbers[1:]}" if numbers[:1] == "-" and numbers[1:2].isdigit() else numbers
