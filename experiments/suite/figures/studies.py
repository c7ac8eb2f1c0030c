"""Figures of each study, found by their files, and drawing them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from suite.figures.page import StudyFigure, save
from suite.figures.style import styled
from suite.metrics.naming import BOUNDED_SHARE
from suite.metrics.results import Results, command
from suite.metrics.series import tuned_methods
from suite.metrics.speeds import read_csv
from suite.metrics.training_budget import FEWEST, training_budget
from suite.runtime.errors import UserError

#: The studies that have figures, in the order of the pages.
STUDIES = ("frontier", "weak_proxy", "notebook", "benchmark", "smollm2")


def _own() -> Iterator[tuple[str, StudyFigure]]:
    """Yield name and figure of every module beside this one that holds a `StudyFigure`; the module's name is the figure's."""
    for found in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if f"suite.figures.{found.name}" != __name__:
            module = importlib.import_module(f"suite.figures.{found.name}")
            yield from ((found.name, value) for value in vars(module).values() if isinstance(value, StudyFigure))


#: Study -> figures by name, in the order of the pages.
FIGURES: dict[str, dict[str, StudyFigure]] = {study: {} for study in STUDIES}


def add_figure(name: str, figure: StudyFigure) -> None:
    """Let the studies that `figure` names have it, in this process.

    Raises:
        ValueError: one of them is no study with figures, or has a figure of that name.
    """
    for study in figure.studies:
        if study not in FIGURES or name in FIGURES[study]:
            raise ValueError(f"name={name!r}: {study} is no study with figures ({', '.join(FIGURES)}), or has such a figure")
        FIGURES[study][name] = figure


for _name, _figure in sorted(_own(), key=lambda each: (each[1].place, each[0])):
    add_figure(_name, _figure)


def figures_of(study: str, results: Any) -> dict[str, StudyFigure]:
    """Return name -> figure of what `loaded` returned.

    Without a trained policy those of best-of-n alone; without shares of the optimum, or without logs, none of these.
    """
    known = FIGURES[study]
    if not isinstance(results, Results):
        return known
    trained = bool(tuned_methods(results.rows))
    shares = any(row.metric in BOUNDED_SHARE.values() for row in results.rows)
    there = {"": True, "trained": trained, "shares": trained and shares, "logs": trained and shares}
    there["logs"] = there["logs"] and bool(results.training_curves())
    return {name: figure for name, figure in known.items() if there[figure.needs]}


def loaded(study: str, folder: Path) -> Any:
    """Return what the figures of a study are drawn from, without policies that were trained on too few responses to be shown.

    Raises:
        UserError: there are no results.
    """
    if study != "benchmark":
        results, budget = Results.load(study, folder), training_budget(folder)
        return results.without_trained() if budget and budget.responses < FEWEST else results
    if not (folder / "speed.csv").is_file():
        raise UserError(f"{study}: {folder / 'speed.csv'} is missing; {command(study, True)} makes it")
    return read_csv(folder / "speed.csv")


def checked_names(studies: Sequence[str], names: Sequence[str]) -> dict[str, list[str] | None]:
    """Study -> the figures among `names` that are its own; None, which means all, where no names are given.

    Raises:
        UserError: none of the studies has a figure of that name.
    """
    known = [name for study in studies for name in FIGURES[study]]
    for name in names:
        if name not in known:
            raise UserError(f"figures={name} is not a figure of {', '.join(studies)}: there are {', '.join(known)}")
    return {study: [name for name in FIGURES[study] if name in names] if names else None for study in studies}


def draw(study: str, folder: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Draw the figures of a study into `folder`/figures.

    Args:
        study: its name: which figures there are.
        folder: its results, usually `results/<study>`.
        names: the figures to draw; all unless given.

    Returns:
        The PNG files; PDF and SVG lie beside them. The bytes are the same on each drawing.

    Raises:
        UserError: there is no such study or figure, or there are no results.
    """
    if study not in FIGURES:
        raise UserError(f"study={study}: there are figures of {', '.join(FIGURES)}")
    results = loaded(study, folder)
    known = figures_of(study, results)
    for name in names or ():
        if name not in known:
            raise UserError(f"figure={name}: {study} has {', '.join(known)}")
    with styled():
        return [save(known[name].figure(results), name, folder / "figures")[0] for name in (known if names is None else names)]
