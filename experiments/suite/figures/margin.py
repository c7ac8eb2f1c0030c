"""Names beside lines: at the right of the axes, moved apart where levels are close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Array = NDArray[np.float64]
SIZE = 6.5  # points


class Note(NamedTuple):
    """A text at a height of the y axis."""

    y: float
    text: str
    color: str


def write_notes(axes: Axes, notes: Sequence[Note], gap: float = 0.075) -> None:
    """Write the notes at the right of the axes at their heights, at least `gap` of the axes' height apart.

    To be called when everything else is drawn: later changes of the y limits would move the lines from their names.
    """
    if not notes:
        return
    axes.set_ylim(axes.get_ylim())
    low, high = axes.get_ylim()
    ordered = sorted(notes, key=lambda note: note.y)
    wanted = (np.array([note.y for note in ordered]) - low) / (high - low)
    for note, height in zip(ordered, apart(wanted, gap), strict=True):
        axes.text(1.015, height, note.text, transform=axes.transAxes, fontsize=SIZE, color=note.color, va="center", ha="left")


def apart(wanted: Array, gap: float) -> Array:
    """Heights nearest to ascending ones (least squares) that are at least `gap` apart.

    Isotonic regression of the heights less k * gap: neighbors that are too close share the mean of their place.
    """
    steps = gap * np.arange(len(wanted))
    return isotonic_regression(np.asarray(wanted, dtype=float) - steps).x + steps
