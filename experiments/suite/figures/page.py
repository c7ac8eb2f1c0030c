"""Panels on a page, one legend above them, and the files: PNG, PDF and SVG, the same byte for byte on each drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from suite.figures.style import DOUBLE_COLUMN

Panel = Callable[[Axes], None]
#: What would change from one drawing to the next is left out of each kind of file.
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "pdf": {"metadata": {"CreationDate": None, "ModDate": None}},
    "svg": {"metadata": {"Date": None}},
}


class StudyFigure(NamedTuple):
    """A figure of studies and its caption, each from a study's results.

    Attributes:
        figure: results -> the figure.
        caption: results -> what it shows, with numbers.
        studies: the studies that have it.
        place: its place among the figures of a study; lower first, then by name.
        needs: what it is left out without: "trained" policies, "shares" of the optimum, or "logs" of trainings with shares.
    """

    figure: Callable[[Any], Figure]
    caption: Callable[[Any], str]
    studies: Sequence[str] = ()
    place: int = 0
    needs: str = ""


def page(panels: Sequence[Panel], columns: int | None = None, width: float = DOUBLE_COLUMN, height: float = 2.8) -> Figure:
    """A figure of panels with one legend above them all. To be called, like `save`, within `style.styled()`.

    Args:
        panels: each draws on the axes that it is given.
        columns: panels beside each other; all of them unless given.
        width, height: inches.
    """
    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for draw, each in zip(panels, axes, strict=True):
        draw(each)
    entries = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    if entries:
        most = 2 if width < DOUBLE_COLUMN else 3 if max(map(len, entries)) > 30 else 4
        beside = min(len(entries), most)
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=beside)
    return figure


def save(figure: Figure, name: str, folder: Path) -> list[Path]:
    """Write `name` in every format into `folder`, which is made; returns the files, the PNG first."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # one layout for every format
    files = []
    for kind, options in FORMATS.items():
        file, temporary = folder / f"{name}.{kind}", folder / f".{name}.{kind}"
        figure.savefig(temporary, format=kind, **options)
        temporary.replace(file)
        files.append(file)
    return files
