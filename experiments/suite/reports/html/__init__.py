"""A run as one HTML file: its table, findings, figures, and a browser of its prompts and responses."""
