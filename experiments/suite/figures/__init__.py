"""Figures: tidy rows and pools to pages; one style, one colour a method, files that are the same byte for byte."""

from suite.figures.of_run import draw_figures
from suite.figures.series import last_step, tuned_methods
from suite.figures.studies import FIGURES, draw
from suite.figures.style import colour, title

__all__ = ["FIGURES", "colour", "draw", "draw_figures", "last_step", "title", "tuned_methods"]
