"""A run: best-of-n against a trained policy on the same prompts."""
