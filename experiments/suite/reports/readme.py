"""Numbers, captions and tables in README.md and docs/figures.md: written from `results/`, never by hand.

A block of README.md stands between `<!-- begin NAME` and `<!-- end NAME -->`; what is between them is written anew.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.figures.reward_vs_n import REWARD_VS_N
from suite.figures.studies import FIGURES, loaded
from suite.metrics.naming import called, title
from suite.metrics.results import Results, command
from suite.metrics.rows import Row, select
from suite.metrics.series import MEASURED, level, middle, over_n, settings, tuned_methods
from suite.metrics.speeds import read_csv, table
from suite.metrics.statements import differences, pairs, pays_off, times
from suite.metrics.text import number, parts, seeds_of_methods
from suite.reports import paper_tables
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY

README = REPOSITORY / "README.md"
#: The headline comes from the first of these that there is.
HEADLINES = ("frontier", "headline")
#: The n that the findings speak of.
N = 8
PRECISIONS = {"fp32": "single precision", "bf16": "bfloat16"}


def update(path: Path = README) -> list[Path]:
    """Write README.md's blocks, docs/figures.md and the headline table; returns the files that have changed.

    Args:
        path: the README; `results/` and `docs/` stand beside it.

    Raises:
        UserError: results or a block of the README are missing.
    """
    changed = stale(path)
    for file, text in changed.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    return list(changed)


def stale(path: Path = README) -> dict[Path, str]:
    """File -> what it should hold, for every file that does not."""
    folder = path.parent
    results = headline(folder / "results")
    assert results.folder is not None
    text = path.read_text(encoding="utf-8")
    for name, block in blocks(results).items():
        text = replaced(text, name, block)
    wanted = {
        path: text,
        folder / "docs" / "figures.md": figures_page(folder / "results"),
        results.folder / "table.md": paper_tables.markdown(results.rows) + "\n",
        results.folder / "table.tex": paper_tables.latex(results.rows) + "\n",
    }
    return {file: text for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text}


def headline(results: Path) -> Results:
    """The results behind the README's headline.

    Raises:
        UserError: there are none.
    """
    for study in HEADLINES:
        if (results / study / "metrics.csv").is_file():
            return Results.load(study, results / study)
    raise UserError(f"{results}: there is none of {', '.join(HEADLINES)}; {command(HEADLINES[0], True)} makes the first")


def blocks(results: Results) -> dict[str, str]:
    """Name -> text of every block of README.md."""
    assert results.folder is not None
    speeds = results.folder.parent / "benchmark"
    figure = f"![Reward against n](results/{results.study}/figures/reward_vs_n.png)"
    return {
        "headline": f"{figure}\n\n{wrapped(f'{REWARD_VS_N.caption(results)} Made by {results.command}.')}",
        "findings": "\n".join(wrapped(f"- {line}", "  ") for line in findings(results)) + f"\n\n{wrapped(limits(results))}",
        "table": f"{paper_tables.markdown(results.rows)}\n\n{wrapped(_about_table(results))}",
        "speed": wrapped(speed_sentence(speeds)),
        "reproduce": reproduce_table(results.folder.parent),
    }


def replaced(text: str, name: str, block: str) -> str:
    """The text with another block of this name.

    Raises:
        UserError: the text has no such block, or two.
    """
    pattern = re.compile(rf"(<!-- begin {name}\b[^>]*-->\n).*?(<!-- end {name} -->)", re.DOTALL)
    found, times = pattern.subn(lambda match: f"{match[1]}{block}\n{match[2]}", text)
    if times != 1:
        raise UserError(f"README `<!-- begin {name} -->` ... `<!-- end {name} -->` is there {times} times, not once")
    return found


def wrapped(text: str, indent: str = "") -> str:
    """Text in lines of the width of this repository's pages; code and numbers stay whole."""
    return textwrap.fill(text, 127, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def findings(results: Results) -> list[str]:
    """What was found, a sentence or two on each: reward, equal KL, cost."""
    rows, base = results.rows, select(results.rows, method="base", n=1)
    most = int(over_n(rows, "best_of_n", "gold").at.max())
    pool = results.pool("base")
    prompts = f"On {len(pool.scores['gold'])} evaluation prompts " if pool is not None else ""
    ns = dict.fromkeys(n for n in (N, most) if n <= most)
    best = " and to ".join(
        f"{number(_best(rows, n, 'gold'))} (best-of-{n}, at most {number(_best(rows, n, 'kl', 'bound'))} nats)" for n in ns
    )
    start = number(next(row for row in base if row.metric == "gold"))
    told = [f"Reward. {prompts}best-of-n lifts mean gold reward from {start} to {best}"]
    for method in tuned_methods(rows)[:1]:
        setting = middle(settings(rows, method))
        gold, kl = level(rows, method, "gold", setting), level(rows, method, "kl", setting, MEASURED)
        if gold and kl:
            seeds = results.seeds.get(method, 1)
            told[0] += f"; {called(method, setting)}, {seeds} training seeds, to {number(gold)} at {number(kl)} nats"
        told += _at_equal_kl(results, method)
        told.append(" ".join(["Cost.", *pays_off(results, method, setting), _diversity(rows, method, setting)]))
    told[0] += "."
    return told


def _at_equal_kl(results: Results, method: str) -> list[str]:
    """The differences between best-of-n and one method, at the KLs where it was measured."""
    told = []
    for (found, name), points in differences(results).items():
        if found == method:
            each = ", ".join(f"{parts(point)} at {point['kl']:g} nats" for point in points)
            told.append(
                f"Equal KL. Paired by prompt, best-of-n, at its upper bound of KL, minus {name} is {each} in gold reward "
                "(between measured policies on straight lines; the other methods are in the figure `equal_kl`)."
            )
    return told


def limits(results: Results) -> str:
    """What limits the findings."""
    most = max(results.seeds.values(), default=0)
    seeds = (
        "one training seed says nothing of the spread between seeds"
        if most < 2
        else f"so few training seeds ({seeds_of_methods(results)}) make intervals that lean on their being alike"
    )
    base = results.pool("base")
    prompts = f"there are {len(base.scores['gold'])} prompts, " if base is not None else ""
    judges = "the judges err (held-out accuracies in `experiments/models/tiny/README.md`)"
    return f"What limits this: the models are small, {prompts}{judges}, and {seeds}."


def speed_sentence(folder: Path) -> str:
    """The benchmark at n = 8, in a sentence.

    Raises:
        UserError: there is no benchmark.
    """
    speeds = loaded("benchmark", folder)
    rates: dict[str, list[str]] = {}
    for ours, rival in pairs(speeds, True):
        if ours.n == N:
            way, _, precision = ours.contender.partition(", ")
            name = f"{PRECISIONS[precision]}{way.removeprefix('bon')} ({ours.share:.0%} of what matrix products allow)"
            rates.setdefault(name, []).append(f"{times(ours, rival)} times the rate of {rival.contender.rpartition(', ')[0]}")
    told = [f"in {name} at {' and '.join(each)}" for name, each in rates.items()]
    updates = [f"{times(*pair)} times with {pair[0].contender.partition(', ')[2]}" for pair in pairs(speeds, False)]
    ppo = f" PPO updates run at a multiple of stock TRL's rate: {'; '.join(updates)}." if updates else ""
    return f"At n = {N} the sampler runs {'; '.join(told)}.{ppo} ({command('benchmark')}, `results/benchmark/speed.md`)"


def reproduce_table(results: Path) -> str:
    """Command, duration and figures of every study that there is."""
    lines = ["| command | duration | figures |", "| --- | --- | --- |"]
    for study in ("headline", *FIGURES):
        folder = results / study
        if (folder / "manifest.json").is_file():
            figures = sorted(file for file in (folder / "figures").glob("*.png"))
            links = ", ".join(f"[{file.stem}](results/{study}/figures/{file.name})" for file in figures)
            lines.append(f"| {command(study, True)} | {_duration(folder / 'manifest.json')} | {links} |")
    return "\n".join(lines)


def figures_page(results: Path) -> str:
    """docs/figures.md: every figure of every study that there is, with its caption and command."""
    pages = ["# Figures\n\nWritten from `results/` by the commands below, never by hand. PDF and SVG lie beside each PNG."]
    for study, figures in FIGURES.items():
        folder = results / study
        if not (folder / ("speed.csv" if study == "benchmark" else "metrics.csv")).is_file():
            continue
        found = loaded(study, folder)
        pages.append(f"## {study.replace('_', ' ').capitalize()}\n\nFigures: {command(study)}.")
        for name, (_, caption) in figures.items():
            pages.append(f"![{name}](../results/{study}/figures/{name}.png)\n\n{wrapped(caption(found))}")
        if study == "benchmark":
            pages.append(table(read_csv(folder / "speed.csv")))
    return "\n\n".join(pages) + "\n"


def _about_table(results: Results) -> str:
    return (
        "≤ marks an upper bound of KL (best-of-n), the others are measured. 95% intervals below the numbers. LaTeX: "
        f"`results/{results.study}/table.tex`."
    )


def _best(rows: Any, n: int, metric: str, kl_kind: str | None = None) -> Row:
    return select(rows, method="best_of_n", n=n, metric=metric, kl_kind=kl_kind)[0]


def _diversity(rows: Any, method: str, setting: str) -> str:
    tuned, base = level(rows, method, "distinct_2", setting), level(rows, "base", "distinct_2")
    if tuned is None or base is None:
        return ""
    return f"Its responses have a distinct-2 of {number(tuned)}, those of the {title('base')} {number(base)}."


def _duration(manifest: Path) -> str:
    """The seconds that a manifest adds up; a dash where it has none."""
    found: Any = json.loads(manifest.read_text(encoding="utf-8")).get("seconds")
    seconds = sum(found.values()) if isinstance(found, Mapping) else found
    if not seconds:
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
