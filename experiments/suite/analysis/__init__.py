"""Findings from rows and pools: paired differences, equal KL, equal cost, over-optimisation."""
