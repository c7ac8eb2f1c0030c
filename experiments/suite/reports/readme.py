"""Write the numbers of README.md and of the documentation from `results/` and from the code, never by hand.

A block stands between `<!-- begin NAME` and `<!-- end NAME -->`; what is between them is written anew. Pages in docs/results/
and docs/reference/ are written whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.figures.studies import FIGURES
from suite.metrics.results import Results, command
from suite.reports import paper_tables
from suite.reports.pages import about_table, result_pages
from suite.reports.reference import configuration_page, metrics_page
from suite.reports.sentences import budget_statement, in_short, speed_in_short
from suite.reports.text import wrapped
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY
from suite.tracking.keys import table as tracked_keys

README = REPOSITORY / "README.md"
#: The headline comes from the first of these that there is.
HEADLINES = ("frontier", "headline")
#: Columns of the table in the README, and how many trained policies it shows.
COLUMNS = ("gold", "win_rate", "kl", "tokens_per_request")
TRAINED = 2


def update(path: Path = README) -> list[Path]:
    """Write README.md's blocks, the generated pages of docs/ and the headline table; return the files that have changed.

    Args:
        path: the README; `results/` and `docs/` stand beside it.

    Raises:
        UserError: results or a block are missing.
    """
    changed = stale(path)
    for file, text in changed.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    return list(changed)


def stale(path: Path = README) -> dict[Path, str]:
    """Return file -> what it should hold, for every file that does not."""
    folder, docs = path.parent, path.parent / "docs"
    results = headline(folder / "results")
    assert results.folder is not None
    written = {
        path: blocks(results),
        docs / "experiments" / "studies.md": {"reproduce": reproduce_table(folder / "results")},
        docs / "experiments" / "tracking.md": {"keys": tracked_keys().rstrip()},
    }
    wanted = {file: _with_blocks(file, found) for file, found in written.items() if file == path or file.is_file()}
    wanted |= {docs / "results" / name: text for name, text in result_pages(folder / "results", results).items()}
    wanted[docs / "reference" / "configuration.md"] = configuration_page()
    wanted[docs / "reference" / "metrics.md"] = metrics_page()
    wanted[results.folder / "table.md"] = paper_tables.markdown(results.rows) + "\n"
    wanted[results.folder / "table.tex"] = paper_tables.latex(results.rows) + "\n"
    return {file: text for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text}


def headline(results: Path) -> Results:
    """Return the results behind the headline.

    Raises:
        UserError: there are none.
    """
    for study in HEADLINES:
        if (results / study / "metrics.csv").is_file():
            return Results.load(study, results / study)
    raise UserError(f"{results}: there is none of {', '.join(HEADLINES)}; {command(HEADLINES[0], True)} makes the first")


def blocks(results: Results) -> dict[str, str]:
    """Return name -> text of every block of README.md."""
    assert results.folder is not None
    figure = f"![Reward against n](results/{results.study}/figures/reward_vs_n.png)"
    caption = (
        "Mean reward against n: left the proxy, which selects and trains, right gold, which only evaluates. Bands: 95% "
        f"intervals. Made by {results.command}."
    )
    bullets = "\n".join(wrapped(f"- {line}", "  ") for line in in_short(results))
    warnings = [wrapped(f"> {line}", "> ") for line in budget_statement(results)]
    return {
        "headline": f"{figure}\n\n{wrapped(caption)}",
        "findings": "\n\n".join([*warnings, bullets]),
        "table": f"{paper_tables.markdown(results.rows, TRAINED, COLUMNS)}\n\n{wrapped(about_table(results.study))}",
        "speed": wrapped(speed_in_short(results.folder.parent / "benchmark")),
    }


def replaced(text: str, name: str, block: str, where: str = "README.md") -> str:
    """Return the text with another block of this name.

    Raises:
        UserError: the text has no such block, or two.
    """
    pattern = re.compile(rf"(<!-- begin {name}\b[^>]*-->\n).*?(<!-- end {name} -->)", re.DOTALL)
    found, times = pattern.subn(lambda match: f"{match[1]}{block}\n{match[2]}", text)
    if times != 1:
        raise UserError(f"{where}: `<!-- begin {name} -->` ... `<!-- end {name} -->` is there {times} times, not once")
    return found


def reproduce_table(results: Path) -> str:
    """Return command, duration and number of figures of every study that there is."""
    lines = ["| command | duration | figures |", "| --- | --- | --- |"]
    for study in ("headline", *FIGURES):
        folder = results / study
        if (folder / "manifest.json").is_file():
            figures = ", ".join(f"`{file.stem}`" for file in sorted((folder / "figures").glob("*.png")))
            lines.append(f"| {command(study, True)} | {_duration(folder / 'manifest.json')} | {figures} |")
    return "\n".join(lines)


def _with_blocks(file: Path, found: Mapping[str, str]) -> str:
    text = file.read_text(encoding="utf-8")
    for name, block in found.items():
        text = replaced(text, name, block, file.name)
    return text


def _duration(manifest: Path) -> str:
    """Return the seconds that a manifest adds up; a dash where it has none."""
    found: Any = json.loads(manifest.read_text(encoding="utf-8")).get("seconds")
    seconds = sum(found.values()) if isinstance(found, Mapping) else found
    if not seconds:
        return "–"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
