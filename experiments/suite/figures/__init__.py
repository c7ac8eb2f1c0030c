"""Figures: tidy rows and pools to pages; one style, one colour a method, files that are the same byte for byte."""

from suite.figures.of_run import draw_figures, draw_run
from suite.figures.series import last_step, tuned_methods
from suite.figures.studies import FIGURES, checked_names, draw
from suite.figures.style import colour, title

__all__ = ["FIGURES", "checked_names", "colour", "draw", "draw_figures", "draw_run", "last_step", "title", "tuned_methods"]
