"""Numbers and their names: rows of evaluation, costs, series, and the words that describe them."""
