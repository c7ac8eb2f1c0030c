"""The one style: widths of a conference page, fonts that matplotlib ships, and methods as `metrics.methods` has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

from suite.metrics.methods import style_of

#: Inches: a column and the text width of a two-column conference page.
SINGLE_COLUMN, DOUBLE_COLUMN = 3.25, 6.75
#: Best-of-n on top of a tuned policy.
ON_TOP = ":"
N_LABEL = "n (candidates a prompt)"
KL_LABEL = "KL to the base policy (nats)"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.06,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "bon",
    "figure.dpi": 100,
}


@contextmanager
def styled() -> Iterator[None]:
    """This style on matplotlib's defaults, whatever the caller's settings; they are as before afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def color_of(method: str) -> str:
    """The color of a method; best-of-n on top of a tuned policy has the tuned policy's."""
    return style_of(method).color


def marker(method: str) -> str:
    """The marker of a method's points."""
    return style_of(method).marker


def line_style(method: str) -> Any:
    """The dashes of a method's lines; dots where best-of-n is on top of a tuned policy."""
    return ON_TOP if "+" in method else style_of(method).dashes
