"""Pages that people read: the terminal, the README, tables, notebooks, the HTML page."""
