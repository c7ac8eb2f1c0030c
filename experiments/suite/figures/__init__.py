"""Figures: tidy rows and pools to pages; one style, one colour a method, files that are the same byte for byte."""
