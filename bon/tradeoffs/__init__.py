"""Reward against KL or cost: frontiers, over-optimisation, and the same over several training seeds."""
