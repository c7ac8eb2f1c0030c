"""Best-of-n from one pool, against enumeration of all subsets, of all pools, and closed forms."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bon.estimators import best_of_n_mean, best_of_n_quantile, best_of_n_weights, subset_weights, win_rate, win_rates

# No ties; one tie at the top; ties below; all equal; two groups.
SCORES = [
    [3.0, -1.0, 2.0, 0.5, 7.0, 1.0, -4.0, 1.5],
    [2.0, 5.0, 1.0, 5.0, 0.0, 3.0, 5.0, 3.0],
    [0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 3.0, 3.0],
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0],
]
GOLD = [
    [0.1, 0.9, 0.4, 0.4, -2.0, 0.3, 5.0, 0.3],
    [1.0, -1.0, 0.0, 4.0, 4.0, 4.0, 2.5, -1.0],
    [7.0, 0.0, 1.0, -3.0, 2.0, 2.0, 1.0, 0.0],
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 3.0],
    [1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 1.0, 0.0],
]


def selections(scores, n):
    """Every way best-of-n can come out: (probability, index selected, indices outside the subset)."""
    subsets = list(combinations(range(len(scores)), n))
    for subset in subsets:
        best = max(scores[i] for i in subset)
        tied = [i for i in subset if scores[i] == best]
        outside = [i for i in range(len(scores)) if i not in subset]
        for i in tied:
            yield Fraction(1, len(subsets) * len(tied)), i, outside


def beats(a, b):
    return Fraction(1) if a > b else Fraction(1, 2) if a == b else Fraction(0)


def pools(size):
    """The rows above, cut to the first `size` candidates."""
    return np.array(SCORES)[:, :size], np.array(GOLD)[:, :size]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_mean_is_the_mean_over_all_subsets(size):
    scores, _ = pools(size)
    estimate = best_of_n_mean(scores)
    for row, n in product(range(len(scores)), range(1, size + 1)):
        oracle = sum(weight * Fraction(scores[row, i]) for weight, i, _ in selections(scores[row], n))
        assert estimate[row, n - 1] == pytest.approx(float(oracle), abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_gold_by_proxy_is_the_gold_of_what_the_proxy_selects_over_all_subsets(size):
    scores, gold = pools(size)
    estimate = best_of_n_mean(scores, gold)
    for row, n in product(range(len(scores)), range(1, size + 1)):
        oracle = sum(weight * Fraction(gold[row, i]) for weight, i, _ in selections(scores[row], n))
        assert estimate[row, n - 1] == pytest.approx(float(oracle), abs=1e-12)


@pytest.mark.parametrize("quantile", [0.05, 0.25, 0.5, 0.9, 1.0])
def test_quantile_is_that_of_the_distribution_over_all_subsets(quantile):
    scores, gold = pools(8)
    estimate = best_of_n_quantile(scores, quantile, gold)
    for row, n in product(range(len(scores)), range(1, 9)):
        outcomes = [(gold[row, i], weight) for weight, i, _ in selections(scores[row], n)]
        reached = [value for value, _ in outcomes if sum(w for v, w in outcomes if v <= value) >= Fraction(str(quantile))]
        assert estimate[row, n - 1] == min(reached)


@pytest.mark.parametrize("quantile", [0.05, 0.2, 0.5, 0.75, 1.0])
def test_quantile_of_the_scores_themselves_by_default(quantile):
    # Two roads: the scores take a short one.
    scores, _ = pools(8)
    np.testing.assert_array_equal(best_of_n_quantile(scores, quantile), best_of_n_quantile(scores, quantile, scores))


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("compare", ["scores", "gold"])
def test_win_rate_is_over_all_subsets_against_all_candidates_outside_ties_half(size, compare):
    scores, gold = pools(size)
    values = scores if compare == "scores" else gold
    estimate = win_rates(scores, range(1, size), values=None if compare == "scores" else gold)
    for row, n in product(range(len(scores)), range(1, size)):
        oracle = sum(
            weight * sum(beats(values[row, i], values[row, j]) for j in outside) / len(outside)
            for weight, i, outside in selections(scores[row], n)
        )
        assert estimate[row, n - 1] == pytest.approx(float(oracle), abs=1e-12)


@pytest.mark.parametrize("compare", ["scores", "gold"])
def test_win_rate_against_an_opponent_is_over_all_subsets_and_all_its_responses(compare):
    scores, gold = pools(6)
    values = scores if compare == "scores" else gold
    opponent = np.array(GOLD)[:, 3:6]
    estimate = win_rates(scores, range(1, 7), opponent, None if compare == "scores" else gold)
    for row, n in product(range(len(scores)), range(1, 7)):
        oracle = sum(
            weight * sum(beats(values[row, i], other) for other in opponent[row]) / 3
            for weight, i, _ in selections(scores[row], n)
        )
        assert estimate[row, n - 1] == pytest.approx(float(oracle), abs=1e-12)


def test_win_rate_takes_one_opponent_response_a_prompt():
    assert win_rate([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], n=2, opponent=[2.0, 5.0]).tolist() == pytest.approx([5 / 6, 0.0])


@pytest.mark.parametrize("candidates", [1, 2, 5, 40])
def test_win_rate_without_ties_is_n_over_n_plus_1_for_every_n(candidates):
    scores = np.random.default_rng(0).permuted(np.tile(np.arange(candidates, dtype=float), (3, 1)), axis=1)
    ns = np.arange(1, candidates + 1)
    np.testing.assert_allclose(win_rates(scores, ns), np.tile(ns / (ns + 1), (3, 1)), atol=1e-12)


def test_win_rate_is_one_half_when_all_are_equal():
    np.testing.assert_allclose(win_rates(np.ones((2, 5)), range(1, 6)), 0.5, atol=1e-12)


def test_win_rate_compares_values_where_the_proxy_selects_the_worst():
    scores = np.arange(6.0)[None]
    # With probability 5/6 the best by score, which is the worst in value, is in the subset and loses to the one outside;
    # otherwise it is the one outside, and the second worst in value wins against it.
    assert win_rate(scores, n=5, values=-scores).tolist() == pytest.approx([1 / 6])


# Three outcomes, two of them tied in score: every pool of 4 draws, weighted with its probability, must give the truth.
PROBABILITIES = np.array([0.5, 0.2, 0.3])
OUTCOME_SCORES = np.array([0.0, 1.0, 1.0])
OUTCOME_GOLD = np.array([2.0, -1.0, 4.0])


def test_mean_and_win_rate_are_unbiased_over_all_pools_of_a_finite_policy():
    draws = np.array(list(product(range(3), repeat=4)))
    weight = PROBABILITIES[draws].prod(1)
    scores, gold = OUTCOME_SCORES[draws], OUTCOME_GOLD[draws]
    means = weight @ best_of_n_mean(scores, gold)
    wins = weight @ win_rates(scores, [1, 2, 3], values=gold)
    for n in (1, 2, 3, 4):
        # Best of n is outcome 0 when all n are; otherwise one of the tied two, in proportion to their probability.
        selected = np.array([0.5**n, 0.4 * (1 - 0.5**n), 0.6 * (1 - 0.5**n)])
        assert means[n - 1] == pytest.approx(selected @ OUTCOME_GOLD, abs=1e-12)
        if n < 4:
            truth = sum(
                selected[i] * PROBABILITIES[j] * float(beats(OUTCOME_GOLD[i], OUTCOME_GOLD[j]))
                for i, j in product(range(3), repeat=2)
            )
            assert wins[n - 1] == pytest.approx(truth, abs=1e-12)


def test_weights_of_pairs_of_four_by_hand():
    # Of the 6 pairs none has the smallest as its best, 1, 2 and 3 have the others.
    np.testing.assert_allclose(best_of_n_weights(4)[1], [0, 1 / 6, 2 / 6, 3 / 6], atol=1e-15)


@pytest.mark.parametrize("candidates", [1, 2, 7, 300])
def test_rows_of_weights_are_distributions_from_uniform_to_the_maximum(candidates):
    weights = best_of_n_weights(candidates)
    assert weights.shape == (candidates, candidates)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(weights[0], 1 / candidates, atol=1e-15)
    assert weights[-1, -1] == 1.0


@pytest.mark.parametrize("n", [1, 2, 1000, 50_000, 99_999, 100_000])
def test_weights_are_stable_for_a_hundred_thousand_candidates(n):
    candidates = 100_000
    weights = subset_weights(candidates, n)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    # The expected maximum of n distinct ranks out of 1..N is n (N + 1) / (n + 1).
    expected = n * (candidates + 1) / (n + 1)
    assert weights @ np.arange(1, candidates + 1) == pytest.approx(expected, rel=1e-8)


def finite(low=-1e3, high=1e3):
    # Whole and half numbers: ties are frequent and sums are exact.
    return st.integers(int(2 * low), int(2 * high)).map(lambda x: x / 2)


def score_arrays(high=20.0):
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 9))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=finite(-high, high)))


@given(score_arrays())
def test_mean_never_falls_as_n_grows(scores):
    assert (np.diff(best_of_n_mean(scores), axis=1) >= -1e-12).all()


@given(score_arrays())
def test_best_of_one_is_the_mean_and_best_of_all_is_the_maximum(scores):
    means = best_of_n_mean(scores)
    np.testing.assert_allclose(means[:, 0], scores.mean(1), atol=1e-12)
    np.testing.assert_allclose(means[:, -1], scores.max(1), atol=1e-12)


@given(score_arrays(3.0), st.integers(0, 2**32 - 1))
def test_the_order_of_candidates_does_not_matter(scores, seed):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 3, scores.shape).astype(float)
    order = rng.permutation(scores.shape[1])
    ns = range(1, scores.shape[1] + 1)
    np.testing.assert_allclose(best_of_n_mean(scores, gold), best_of_n_mean(scores[:, order], gold[:, order]), atol=1e-12)
    np.testing.assert_array_equal(
        best_of_n_quantile(scores, 0.3, gold), best_of_n_quantile(scores[:, order], 0.3, gold[:, order])
    )
    np.testing.assert_allclose(
        win_rates(scores, ns, values=gold), win_rates(scores[:, order], ns, values=gold[:, order]), atol=1e-12
    )


@given(score_arrays(), st.sampled_from([0.25, 1.0, 3.0]), finite(-50, 50))
def test_affine_maps_of_the_reward_map_the_mean_and_leave_the_win_rate(scores, scale, shift):
    ns = range(1, scores.shape[1] + 1)
    np.testing.assert_allclose(best_of_n_mean(scale * scores + shift), scale * best_of_n_mean(scores) + shift, atol=1e-10)
    np.testing.assert_allclose(win_rates(scale * scores + shift, ns), win_rates(scores, ns), atol=1e-12)


@given(score_arrays(), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.25, 2.0]), finite(-50, 50))
def test_quantiles_grow_with_n_and_follow_affine_maps(scores, quantile, scale, shift):
    quantiles = best_of_n_quantile(scores, quantile)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    np.testing.assert_array_equal(quantiles[:, -1], scores.max(1))
    np.testing.assert_allclose(best_of_n_quantile(scale * scores + shift, quantile), scale * quantiles + shift, atol=1e-10)


@given(score_arrays(3.0))
def test_win_rate_lies_between_one_half_and_the_ceiling_without_ties(scores):
    ns = np.arange(1, scores.shape[1] + 1)
    rates = win_rates(scores, ns)
    assert (rates >= 0.5 - 1e-12).all()
    assert (rates <= ns / (ns + 1) + 1e-12).all()


@given(score_arrays(3.0))
def test_a_prompt_does_not_see_the_other_prompts(scores):
    ns = range(1, scores.shape[1] + 1)
    for row in range(len(scores)):
        alone = scores[row : row + 1]
        np.testing.assert_allclose(best_of_n_mean(scores)[row], best_of_n_mean(alone)[0], atol=1e-12)
        np.testing.assert_allclose(win_rates(scores, ns)[row], win_rates(alone, ns)[0], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_and_values_that_are_not_finite_are_refused_by_place(bad):
    scores = np.zeros((2, 3))
    broken = scores.copy()
    broken[1, 2] = bad
    with pytest.raises(ValueError, match=r"scores must be finite, got .* at \(1, 2\)"):
        best_of_n_mean(broken)
    with pytest.raises(ValueError, match=r"values must be finite, got .* at \(1, 2\)"):
        best_of_n_mean(scores, broken)


def test_bad_shapes_counts_and_quantiles_are_refused():
    scores = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"shape of scores \(2, 3\), got \(3, 2\)"):
        best_of_n_mean(scores, scores.T)
    with pytest.raises(ValueError, match=r"scores must be \[prompts, candidates\].*\(0, 3\)"):
        best_of_n_mean(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"scores must be \[prompts, candidates\].*\(3,\)"):
        win_rate(np.zeros(3), 1)
    for n in (0, 4, -1):
        with pytest.raises(ValueError, match=rf"n must lie in 1\.\.3 .*got {n}"):
            win_rate(scores, n)
    for quantile in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=r"quantile must lie in \(0, 1\]"):
            best_of_n_quantile(scores, quantile)
    with pytest.raises(ValueError, match="num_candidates must be at least 1, got 0"):
        best_of_n_weights(0)
    with pytest.raises(ValueError, match=r"opponent must be finite.*P = 2"):
        win_rate(scores, 1, opponent=np.zeros(3))
    with pytest.raises(ValueError, match="opponent must be finite"):
        win_rate(scores, 1, opponent=[0.0, np.nan])
    with pytest.raises(ValueError, match=r"opponent must be finite.*got shape \(2, 0\)"):
        win_rate(scores, 1, opponent=np.zeros((2, 0)))
