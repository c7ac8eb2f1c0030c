"""Votes for answers, ensembles of rewards, length: small pools by hand, and the law of best-of-m by enumeration."""

import re
from itertools import combinations

import numpy as np
import pytest

from bon import Candidates
from bon.selection import (
    BestOfN,
    Ensemble,
    LengthRegularizedBestOfN,
    Majority,
    MajorityOfTheBests,
    WeightedMajority,
    answers_of,
)

TEXTS = [["is 4", "is 5", "so 5", "4", "4!", "none"], ["7", "8", "8", "none", "none", "none"]]
SCORES = [[0.1, 0.9, 0.8, 0.2, 0.3, 5.0], [0.9, 0.1, 0.2, 9.0, 9.0, 9.0]]


@pytest.fixture
def pool():
    return Candidates.from_texts(["p", "q"], TEXTS, scores={"proxy": SCORES})


def test_answers_are_the_last_match_its_group_or_what_a_function_says(pool):
    assert answers_of(pool, r"\d")[0].tolist() == ["4", "5", "5", "4", "4", None]
    assert answers_of(pool, re.compile(r"is (.*)$"))[0].tolist() == ["4", "5", None, None, None, None]
    assert answers_of(pool, lambda text: int(text) if text.isdigit() else None)[1].tolist() == [7, 8, 8, None, None, None]
    with pytest.raises(ValueError, match="is no regular expression"):
        answers_of(pool, "(")
    with pytest.raises(ValueError, match="answer returned a list, which cannot be counted"):
        answers_of(pool, list)


def test_majorities_by_hand(pool):
    assert pool.select(Majority(r"\d")).texts.tolist() == [["is 4"], ["8"]]  # 3 against 2, 2 against 1
    # Sums: 0.6 for 4 and 1.7 for 5; 0.9 for 7 and 0.3 for 8. The best-scored with that answer is returned.
    assert pool.select(WeightedMajority(r"\d")).texts.tolist() == [["is 5"], ["7"]]
    heated = WeightedMajority(r"\d", temperature=100.0)  # nearly one vote each
    assert heated.indices(pool).tolist() == [[4], [2]]
    with pytest.raises(ValueError, match="cannot be negative, 'proxy' has -1: give a temperature"):
        pool.with_scores(proxy=-np.ones((2, 6))).select(WeightedMajority(r"\d"))


def test_where_nobody_answers_the_first_or_the_best_is_returned():
    pool = Candidates.from_texts(["p"], [["a", "b", "c"]], scores={"proxy": [[0.0, 2.0, 1.0]]})
    assert pool.select(Majority(r"\d")).texts.tolist() == [["a"]]
    assert pool.select(MajorityOfTheBests(r"\d")).texts.tolist() == [["b"]]


@pytest.mark.parametrize("m", [1, 2, 3, 5, 7])
def test_majority_of_the_bests_counts_the_best_of_all_subsets(m):
    rng = np.random.default_rng(m)
    texts = [[str(number) for number in row] for row in rng.integers(0, 3, (8, 7))]
    scores = rng.integers(0, 5, (8, 7)).astype(float)  # with ties
    pool = Candidates.from_texts([f"p{p}" for p in range(8)], texts, scores={"proxy": scores})
    chosen = MajorityOfTheBests(r"\d", m=m).indices(pool)[:, 0]
    for p in range(8):
        votes = {}
        for subset in combinations(range(7), m):
            best = [i for i in subset if scores[p, i] == scores[p, list(subset)].max()]
            for i in best:
                votes[texts[p][i]] = votes.get(texts[p][i], 0.0) + 1 / len(best)
        # Ties of subsets are ties of what a random order of equals returns.
        assert votes[texts[p][chosen[p]]] == pytest.approx(max(votes.values()))
    if m == 1:
        np.testing.assert_array_equal([texts[p][c] for p, c in enumerate(chosen)], pool.select(Majority(r"\d")).texts[:, 0])
    if m == 7:
        same = {(p, texts[p][i]) for p in range(8) for i in range(7) if scores[p, i] == scores[p].max()}
        assert all((p, texts[p][c]) in same for p, c in enumerate(chosen))


def test_ensembles_by_hand(make_pool):
    a, b = [[3.0, 1.0, 2.0]], [[-3.0, 1.2, 1.4]]
    pool = make_pool(a).with_scores(other=np.array(b))
    np.testing.assert_allclose(Ensemble(["proxy", "other"]).scores(pool), [[0.0, 1.1, 1.7]])
    np.testing.assert_allclose(Ensemble(["proxy", "other"], "min").scores(pool), [[-3.0, 1.0, 1.4]])
    np.testing.assert_allclose(
        Ensemble(["proxy", "other"], "mean - spread", 2.0).scores(pool), [[0.0 - 2 * 9, 1.1 - 2 * 0.01, 1.7 - 2 * 0.09]]
    )
    assert Ensemble(["proxy", "other"]).indices(pool).tolist() == [[2]]
    missing = pool.with_scores(other=np.array([[1.0, 9.0, np.nan]]))
    assert Ensemble(["proxy", "other"]).indices(missing).tolist() == [[1]]
    for wrong in (["proxy"], "proxy", ["proxy", "proxy"]):
        with pytest.raises(ValueError, match="at least 2 different scores"):
            Ensemble(wrong)
    with pytest.raises(ValueError, match="joint must be"):
        Ensemble(["a", "b"], "max")


def test_length_is_taken_from_the_score(make_pool):
    pool = make_pool([[1.0, 1.5, 2.0]], lengths=np.array([[1, 2, 4]], dtype=np.int32))
    assert LengthRegularizedBestOfN(0.0).indices(pool).tolist() == BestOfN().indices(pool).tolist() == [[2]]
    assert LengthRegularizedBestOfN(0.4).indices(pool).tolist() == [[1]]
    assert LengthRegularizedBestOfN(1.0).indices(pool).tolist() == [[0]]
    texts = Candidates.from_texts(["p"], [["a", "bbbb"]], scores={"proxy": [[0.0, 1.0]]})
    assert LengthRegularizedBestOfN(0.5).indices(texts).tolist() == [[0]]
