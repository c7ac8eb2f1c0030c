"""What rows and pools show: paired differences, equal KL, equal cost, over-optimisation."""
