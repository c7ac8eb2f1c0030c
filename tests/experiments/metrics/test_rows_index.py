"""The index of rows finds what a scan of the list finds."""

import itertools

import pytest

from suite.metrics.rows import Row, Rows, select

ROWS = [
    Row(method, seed, step, n, metric, float(place), setting=setting)
    for place, (method, seed, step, n, metric, setting) in enumerate(
        itertools.product(["base", "ppo"], [None, 0], [None, 3], [1, 2], ["gold", "kl"], ["", "kl_coef=0.1"])
    )
]


@pytest.mark.parametrize("method", ["base", "ppo", "rloo"])
@pytest.mark.parametrize("metric", ["gold", "kl", "length"])
@pytest.mark.parametrize("others", [{}, {"n": 1}, {"step": None, "seed": 0}, {"setting": "kl_coef=0.1", "n": 2}])
def test_an_index_finds_the_same_rows(method, metric, others):
    found = select(Rows(ROWS), method=method, metric=metric, **others)
    assert found == select(ROWS, method=method, metric=metric, **others)


def test_without_a_method_or_a_metric_all_are_looked_at():
    assert select(Rows(ROWS), n=2) == select(ROWS, n=2) != []
