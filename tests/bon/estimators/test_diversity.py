"""Diversity of best-of-n against enumeration of all ways of choosing subsets."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bon.estimators.diversity import best_of_n_distinct, distinct_n, self_similarity


def make_pool(seed, prompts, candidates, width=4, tokens=3, levels=3):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, width + 1, (prompts, candidates))
    token_ids = rng.integers(0, tokens, (prompts, candidates, width))
    token_ids[np.arange(width) >= lengths[..., None]] = 99  # behind the end: never to be counted
    return token_ids, lengths, rng.integers(0, levels, (prompts, candidates)).astype(float)


def grams_of(ids, length, order):
    response = [int(token) for token in ids[:length]]
    return [tuple(response[i : i + order]) for i in range(length - order + 1)]


def winners(scores, n):
    """Every (probability, index) of best-of-n, ties uniform."""
    subsets = list(combinations(range(len(scores)), n))
    for subset in subsets:
        tied = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
        for i in tied:
            yield 1 / len(subsets) / len(tied), i


def test_distinct_n_by_hand():
    share, without = distinct_n([[1, 2, 3], [1, 2, 4], [7]], order=2)
    assert share == 0.75
    assert without.tolist() == [1.0, 1.0, 0.75]
    assert distinct_n([[1], []], order=2)[0] == 1.0


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_distinct_of_best_of_n_is_that_over_all_ways_of_choosing_subsets(order, n):
    token_ids, lengths, scores = make_pool(1, 3, 4)
    distinct = total = 0.0
    for choice in product(*(list(winners(row, n)) for row in scores)):
        probability = np.prod([weight for weight, _ in choice])
        grams = [gram for p, (_, c) in enumerate(choice) for gram in grams_of(token_ids[p, c], lengths[p, c], order)]
        distinct += probability * len(set(grams))
        total += probability * len(grams)
    share, _ = best_of_n_distinct(token_ids, lengths, scores, order, [n])
    assert share[0] == pytest.approx(distinct / total, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_distinct_without_a_prompt_is_that_of_the_other_prompts(order):
    token_ids, lengths, scores = make_pool(2, 5, 4)
    _, without = best_of_n_distinct(token_ids, lengths, scores, order, [1, 3, 4])
    for p in range(5):
        others = [np.delete(part, p, 0) for part in (token_ids, lengths, scores)]
        np.testing.assert_allclose(without[p], best_of_n_distinct(*others, order, [1, 3, 4])[0], atol=1e-12)


def test_distinct_of_the_best_of_all_is_that_of_the_selected_set():
    token_ids, lengths, _ = make_pool(3, 20, 5, width=6, tokens=8)
    scores = np.random.default_rng(0).normal(size=(20, 5))
    best = scores.argmax(1)
    chosen = [token_ids[p, c, : lengths[p, c]].tolist() for p, c in enumerate(best)]
    for order in (1, 2, 3):
        share, without = best_of_n_distinct(token_ids, lengths, scores, order, [5])
        expected, expected_without = distinct_n(chosen, order)
        assert share[0] == pytest.approx(expected)
        np.testing.assert_allclose(without[:, 0], expected_without)


@pytest.mark.parametrize("order", [1, 2])
def test_self_similarity_is_that_of_winners_of_all_disjoint_subsets(order):
    token_ids, lengths, scores = make_pool(4, 3, 6)
    scores[0] = [0.3, 0.1, 0.7, 0.2, 0.9, 0.4]  # one prompt without ties
    result = self_similarity(token_ids, lengths, scores, order)
    for p, n in product(range(3), (1, 2, 3)):
        sets = [set(grams_of(token_ids[p, c], lengths[p, c], order)) for c in range(6)]
        expected, count = 0.0, 0
        for one in combinations(range(6), n):
            for other in combinations([i for i in range(6) if i not in one], n):
                count += 1
                for a, b in product(*([i for i in s if scores[p, i] == scores[p, list(s)].max()] for s in (one, other))):
                    share = 1.0
                    for subset in (one, other):
                        share /= sum(scores[p, i] == scores[p, list(subset)].max() for i in subset)
                    either = sets[a] | sets[b]
                    expected += share * (len(sets[a] & sets[b]) / len(either) if either else 1.0)
        assert result[p, n - 1] == pytest.approx(expected / count, abs=1e-12)
    assert np.isnan(result[:, 3:]).all()


def test_self_similarity_of_one_answer_is_one_and_of_unlike_answers_zero():
    same = np.tile([5, 6, 7], (2, 4, 1))
    unlike = np.arange(24).reshape(2, 4, 3)
    lengths, scores = np.full((2, 4), 3), np.random.default_rng(0).normal(size=(2, 4))
    np.testing.assert_allclose(self_similarity(same, lengths, scores)[:, :2], 1.0)
    np.testing.assert_allclose(self_similarity(unlike, lengths, scores)[:, :2], 0.0, atol=1e-15)
    # A response that always wins twice over: best-of-2 says it, best-of-1 need not.
    twins = np.array([[[1, 2], [1, 2], [3, 4], [5, 6]]])
    rising = self_similarity(twins, np.full((1, 4), 2), [[1.0, 1.0, 0.0, 0.0]])[0]
    assert rising[0] == pytest.approx(1 / 6)
    assert rising[1] == pytest.approx(2 / 3)  # of the 3 splits into pairs, the twins are together in one


@given(st.integers(0, 10_000))
def test_the_order_of_candidates_and_what_stands_behind_a_response_do_not_matter(seed):
    token_ids, lengths, scores = make_pool(seed, 2, 5)
    rng = np.random.default_rng(seed)
    order = rng.permutation(5)
    garbage = np.where(np.arange(4) < lengths[..., None], token_ids, rng.integers(0, 3, token_ids.shape))
    moved = garbage[:, order], lengths[:, order], scores[:, order]
    for one, other in zip(
        best_of_n_distinct(token_ids, lengths, scores, 2, [1, 3]), best_of_n_distinct(*moved, 2, [1, 3]), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)
    np.testing.assert_allclose(
        self_similarity(token_ids, lengths, scores, 2)[:, :2], self_similarity(*moved, 2)[:, :2], atol=1e-12
    )


def test_responses_too_short_for_an_n_gram():
    token_ids, lengths, scores = np.zeros((2, 2, 1), int), np.ones((2, 2), int), np.zeros((2, 2))
    share, without = best_of_n_distinct(token_ids, lengths, scores, 2, [1, 2])
    assert share.tolist() == [1.0, 1.0]
    assert without.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert self_similarity(token_ids, lengths, scores, 2)[:, 0].tolist() == [1.0, 1.0]


def test_bad_arguments_are_refused():
    token_ids, lengths, scores = make_pool(0, 2, 3)
    for function in (lambda *args: best_of_n_distinct(*args, 1, [1]), self_similarity):
        with pytest.raises(ValueError, match=r"= \(2, 3\), got \(2, 2, 4\) and \(2, 3\)"):
            function(token_ids[:, :2], lengths, scores)
        with pytest.raises(ValueError, match=r"lengths must lie in 0\.\.4, got 0 to 9"):
            function(token_ids, np.array([[0, 1, 9]] * 2), scores)
        with pytest.raises(ValueError, match="scores must be finite"):
            function(token_ids, lengths, scores * np.nan)
    with pytest.raises(ValueError, match=r"n must lie in 1\.\.3 .*got 4"):
        best_of_n_distinct(token_ids, lengths, scores, 1, [4])
    for function in (
        lambda: distinct_n([[1]], 0),
        lambda: best_of_n_distinct(token_ids, lengths, scores, 0, [1]),
        lambda: self_similarity(token_ids, lengths, scores, 0),
    ):
        with pytest.raises(ValueError, match="order must be at least 1, got 0"):
            function()
