"""Which figures each study has, and drawing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite.figures.cost import COST
from suite.figures.equal_kl import EQUAL_KL
from suite.figures.notebook import NOTEBOOK
from suite.figures.overoptimisation import OVEROPTIMISATION
from suite.figures.page import StudyFigure, save
from suite.figures.quality import QUALITY
from suite.figures.reward_distribution import REWARD_DISTRIBUTION
from suite.figures.reward_vs_kl import REWARD_VS_KL
from suite.figures.reward_vs_n import REWARD_VS_N
from suite.figures.share import SHARE
from suite.figures.speed import SPEED
from suite.figures.style import styled
from suite.figures.training import TRAINING
from suite.metrics.naming import BOUNDED_SHARE
from suite.metrics.results import Results, command
from suite.metrics.series import tuned_methods
from suite.metrics.speeds import read_csv
from suite.metrics.training_budget import FEWEST, training_budget
from suite.runtime.errors import UserError

_AGAINST_TRAINED: dict[str, StudyFigure] = {
    "reward_vs_n": REWARD_VS_N,
    "reward_vs_kl": REWARD_VS_KL,
    "equal_kl": EQUAL_KL,
    "cost": COST,
    "share": SHARE,
    "training": TRAINING,
    "quality": QUALITY,
    "reward_distribution": REWARD_DISTRIBUTION,
}
FIGURES: dict[str, dict[str, StudyFigure]] = {
    "frontier": _AGAINST_TRAINED,
    "weak_proxy": {"overoptimisation": OVEROPTIMISATION},
    "notebook": {"notebook": NOTEBOOK},
    "benchmark": {"speed": SPEED},
    "smollm2": _AGAINST_TRAINED,
}


#: Nothing is left of these where there is no trained policy.
_OF_TRAINED = ("reward_vs_kl", "equal_kl", "cost", "share", "training")


def figures_of(study: str, results: Any) -> dict[str, StudyFigure]:
    """Return name -> figure of what `loaded` returned.

    Without a trained policy those of best-of-n alone; without shares of the optimum, or without logs, none of these.
    """
    known = FIGURES[study]
    if not isinstance(results, Results):
        return known
    left_out = set() if tuned_methods(results.rows) else set(_OF_TRAINED)
    if not any(row.metric in BOUNDED_SHARE.values() for row in results.rows):
        left_out |= {"share", "training"}
    elif not results.training_curves():
        left_out.add("training")
    return {name: figure for name, figure in known.items() if name not in left_out}


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
