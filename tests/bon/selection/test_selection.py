"""Choosing from a scored pool: order, ties, and columns that move together."""

import numpy as np
import pytest

from bon.selection import best_of_n, ranking, scores_of, top_k

SCORES = [[0.5, -1.0, 2.0, 2.0], [3.0, 1.0, 0.0, 3.0]]


@pytest.fixture
def pool(make_pool):
    return make_pool(SCORES).with_scores(gold=np.array([[1.0, 9.0, 2.0, 3.0], [0.0, 5.0, 6.0, 7.0]]))


def test_ranking_is_best_first_and_of_equals_the_earlier_first():
    assert ranking(np.array(SCORES)).tolist() == [[2, 3, 0, 1], [0, 3, 1, 2]]


def test_top_k_returns_the_k_best_best_first_with_all_their_columns(pool):
    best = top_k(pool, 3)
    assert best.scores["proxy"].tolist() == [[2.0, 2.0, 0.5], [3.0, 3.0, 1.0]]
    assert best.scores["gold"].tolist() == [[2.0, 3.0, 1.0], [0.0, 7.0, 5.0]]
    assert best.texts.tolist() == [
        [" response 0.2", " response 0.3", " response 0.0"],
        [" response 1.0", " response 1.3", " response 1.1"],
    ]


def test_top_k_selects_by_the_named_score(pool):
    assert top_k(pool, 1, by="gold").texts.tolist() == [[" response 0.1"], [" response 1.3"]]


def test_best_of_n_chooses_among_the_first_n_only(pool):
    assert [best_of_n(pool, n).scores["proxy"].ravel().tolist() for n in (1, 2, 3, 4)] == [
        [0.5, 3.0],
        [0.5, 3.0],
        [2.0, 3.0],
        [2.0, 3.0],
    ]
    assert best_of_n(pool).texts.tolist() == best_of_n(pool, 4).texts.tolist() == [[" response 0.2"], [" response 1.0"]]
    assert best_of_n(pool, 2, by="gold").scores["gold"].ravel().tolist() == [9.0, 5.0]


def test_all_of_top_n_is_the_pool_reordered(pool):
    everything = top_k(pool, 4)
    for row in range(2):
        assert sorted(everything.texts[row]) == sorted(pool.texts[row])


def test_counts_out_of_range_and_unknown_scores_are_refused(pool):
    for k in (0, 5):
        with pytest.raises(ValueError, match=rf"k must lie in 1\.\.4 .*got {k}"):
            top_k(pool, k)
    with pytest.raises(ValueError, match=r"n must lie in 1\.\.4"):
        best_of_n(pool, 5)
    with pytest.raises(ValueError, match="no score 'silver'; it has proxy, gold"):
        scores_of(pool, "silver")


def test_an_unscored_pool_says_that_it_has_to_be_scored(make_pool):
    with pytest.raises(ValueError, match="it has none: score it first"):
        top_k(make_pool(), 1)
