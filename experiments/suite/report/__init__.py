"""A run as one HTML file: its table, findings, figures, and a browser of its prompts and responses."""

from suite.report.page import write_report

__all__ = ["write_report"]
