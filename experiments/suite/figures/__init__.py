"""Figures: tidy rows and pools to pages; one style, one color per method, files that are the same byte for byte."""
