"""Methods that are compared: how each is called and drawn, a row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MethodStyle:
    """Look of a method in tables, legends and figures.

    Attributes:
        title: its name in text.
        color: of Okabe and Ito's, told apart by readers with any color vision; dashes and markers tell them apart in gray.
        marker: of its points, in matplotlib's letters.
        dashes: of its lines, as matplotlib takes them.
    """

    title: str
    color: str = "#56B4E9"
    marker: str = "P"
    dashes: Any = (0, (4, 2, 1, 2))


#: Of every method by its name in rows. A method without a row here has its name in capitals and the looks above.
METHODS = {
    "base": MethodStyle("base policy", "#555555", "X", (0, (1, 1))),
    "best_of_n": MethodStyle("best-of-n", "#0072B2", "v", "-"),
    "ppo": MethodStyle("PPO", "#D55E00", "o", "--"),
    "rloo": MethodStyle("RLOO", "#CC79A7", "s", "-."),
    "grpo": MethodStyle("GRPO", "#009E73", "^", (0, (3, 1, 1, 1, 1, 1))),
    "bon_sft": MethodStyle("best-of-n SFT", "#E69F00", "D", (0, (5, 1))),
    "published": MethodStyle("published policy"),
    "optimum": MethodStyle("optimum", "#000000", "*", (0, (9, 1))),
}


def style_of(method: str) -> MethodStyle:
    """Return the looks of a method; best-of-n on top of a tuned policy has the tuned policy's."""
    first = method.split("+")[0]
    return METHODS.get(first, MethodStyle(first.upper()))
