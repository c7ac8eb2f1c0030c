"""Write the result pages of the documentation: findings, figures, speed."""

from __future__ import annotations

from pathlib import Path

from suite.figures.reward_vs_n import REWARD_VS_N
from suite.figures.studies import FIGURES, figures_of, loaded
from suite.metrics.results import Results, command
from suite.metrics.speeds import read_csv, table
from suite.reports import paper_tables
from suite.reports.sentences import budget_statement, findings, limits, speed_sentence
from suite.reports.text import wrapped

WRITTEN = "<!-- Written by `python experiments/reproduce.py`: do not edit. -->"
TITLES = {"smollm2": "SmolLM2-135M", "weak_proxy": "A weak proxy", "notebook": "TRL's notebook", "benchmark": "Speed"}
#: docs/results/ to results/.
RESULTS = "../../results"


def result_pages(results: Path, headline: Results) -> dict[str, str]:
    """Return name -> text of every page in docs/results/.

    Args:
        results: the folder of all studies.
        headline: the study of the findings.
    """
    return {
        "findings.md": findings_page(headline),
        "figures.md": figures_page(results),
        "speed.md": speed_page(results / "benchmark"),
    }


def findings_page(results: Results) -> str:
    """Return the findings of the headline study: figure, sentences, what limits them, the whole table."""
    parts = [
        f"{WRITTEN}\n\n# Findings",
        *(f"```{{warning}}\n{wrapped(told)}\n```" for told in budget_statement(results)),
        f"![Reward against n]({RESULTS}/{results.study}/figures/reward_vs_n.png)",
        wrapped(f"{REWARD_VS_N.caption(results)} Made by {results.command}."),
        "\n".join(wrapped(f"- {line}", "  ") for line in findings(results)),
        wrapped(limits(results)),
        "## Every method",
        paper_tables.markdown(results.rows),
        wrapped(about_table(results.study)),
    ]
    return "\n\n".join(parts) + "\n"


def figures_page(results: Path) -> str:
    """Return every figure of every study that there is, with its caption and command."""
    intro = "PDF and SVG lie beside each PNG in `results/`. Speed has [a page of its own](speed.md)."
    pages = [f"{WRITTEN}\n\n# Figures\n\n{intro}"]
    for study in FIGURES:
        folder = results / study
        if study == "benchmark" or not (folder / "metrics.csv").is_file():
            continue
        found = loaded(study, folder)
        pages.append(f"## {TITLES.get(study, study.capitalize())}\n\nFigures: {command(study)}.")
        pages += [f"```{{warning}}\n{wrapped(told)}\n```" for told in budget_statement(found)]
        for name, figure in figures_of(study, found).items():
            pages.append(f"![{name}]({RESULTS}/{study}/figures/{name}.png)\n\n{wrapped(figure.caption(found))}")
    return "\n\n".join(pages) + "\n"


def speed_page(folder: Path) -> str:
    """Return the benchmark: its sentence, its figure, its table."""
    speeds = loaded("benchmark", folder)
    (figure,) = FIGURES["benchmark"].values()
    image = f"![speed]({RESULTS}/benchmark/figures/speed.png)"
    parts = [f"{WRITTEN}\n\n# Speed", wrapped(speed_sentence(folder)), image, wrapped(figure.caption(speeds))]
    return "\n\n".join([*parts, table(read_csv(folder / "speed.csv"))]).rstrip() + "\n"


def about_table(study: str) -> str:
    """Return what stands below the headline table."""
    return (
        "≤ marks an upper bound of KL (best-of-n), the others are measured. 95% intervals below the numbers. LaTeX: "
        f"`results/{study}/table.tex`."
    )
