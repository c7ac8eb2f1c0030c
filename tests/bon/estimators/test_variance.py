"""Variance of the all-n estimate, against enumeration of all pools, pools with one candidate deleted, and simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bon.estimators import best_of_n_mean, best_of_n_standard_error, best_of_n_variance

# Four outcomes, two tied in score and far apart in value.
PROBABILITIES = np.array([0.4, 0.2, 0.3, 0.1])
OUTCOME_SCORES = np.array([0.0, 1.0, 1.0, 2.0])
OUTCOME_GOLD = np.array([2.0, -3.0, 4.0, 1.0])


def every_pool(size):
    draws = np.array(list(product(range(4), repeat=size)))
    return PROBABILITIES[draws].prod(1), OUTCOME_SCORES[draws], OUTCOME_GOLD[draws]


@pytest.mark.parametrize("size", [2, 4, 5, 6])
@pytest.mark.parametrize("of", ["scores", "gold"])
def test_variance_is_unbiased_over_all_pools_of_a_finite_policy(size, of):
    weight, scores, gold = every_pool(size)
    values = None if of == "scores" else gold
    estimates = best_of_n_mean(scores, values)
    truth = weight @ (estimates - weight @ estimates) ** 2
    mean = weight @ best_of_n_variance(scores, values)
    half = size // 2
    np.testing.assert_allclose(mean[:half], truth[:half], atol=1e-12)
    assert np.isnan(mean[half:]).all()


@pytest.mark.parametrize("of", ["scores", "gold"])
def test_squared_standard_error_errs_upwards_over_all_pools(of):
    weight, scores, gold = every_pool(6)
    values = None if of == "scores" else gold
    estimates = best_of_n_mean(scores, values)
    truth = weight @ (estimates - weight @ estimates) ** 2
    mean = weight @ best_of_n_standard_error(scores, values) ** 2
    assert mean[0] == pytest.approx(truth[0], abs=1e-12)
    assert (mean[1:5] > truth[1:5]).all()
    assert np.isnan(mean[5])


def test_standard_error_is_that_of_pools_with_one_candidate_deleted():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (6, 7)).astype(float)
    scores[0] = rng.normal(size=7)
    gold = rng.normal(size=(6, 7))
    deleted = [best_of_n_mean(np.delete(scores, k, 1), np.delete(gold, k, 1)) for k in range(7)]
    expected = np.sqrt(6 / 7 * np.sum((np.stack(deleted) - np.mean(deleted, axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(best_of_n_standard_error(scores, gold)[:, :6], expected, atol=1e-12)


def test_best_of_one_has_the_textbook_standard_error():
    scores = np.random.default_rng(1).normal(size=(5, 20))
    expected = scores.std(1, ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(best_of_n_standard_error(scores)[:, 0], expected)
    np.testing.assert_allclose(best_of_n_variance(scores)[:, 0], expected**2)


def test_both_agree_with_the_spread_of_the_estimate_over_simulated_pools():
    # 4,000 pools of 32 uniforms: the variance of n = 8 is known to 3%, the means below to 1%.
    scores = np.random.default_rng(2).random((4000, 32))
    n = 8
    spread = best_of_n_mean(scores)[:, n - 1].var(ddof=1)
    assert best_of_n_variance(scores)[:, n - 1].mean() == pytest.approx(spread, rel=0.1)
    assert 0.9 < np.mean(best_of_n_standard_error(scores)[:, n - 1] ** 2) / spread < 1.2


@given(arrays(np.float64, (2, 6), elements=st.integers(-4, 4).map(float)), st.floats(0.5, 3), st.integers(-9, 9))
def test_a_shift_changes_nothing_and_a_scale_scales(scores, scale, shift):
    moved = scale * scores + shift
    np.testing.assert_allclose(best_of_n_variance(moved)[:, :3], scale**2 * best_of_n_variance(scores)[:, :3], atol=1e-9)
    np.testing.assert_allclose(
        best_of_n_standard_error(moved)[:, :5], scale * best_of_n_standard_error(scores)[:, :5], atol=1e-6
    )


def test_equal_candidates_leave_no_doubt():
    assert not best_of_n_variance(np.full((2, 8), 3.0))[:, :4].any()
    assert not best_of_n_standard_error(np.full((2, 8), 3.0))[:, :7].any()


def test_one_candidate_tells_nothing():
    assert np.isnan(best_of_n_variance([[1.0]])).all()
    assert np.isnan(best_of_n_standard_error([[1.0]])).all()


def test_bad_pools_are_refused():
    for function in (best_of_n_variance, best_of_n_standard_error):
        with pytest.raises(ValueError, match=r"scores must be \[prompts, candidates\].*\(3,\)"):
            function(np.zeros(3))
        with pytest.raises(ValueError, match=r"values must be finite, got nan at \(0, 1\)"):
            function([[1.0, 2.0]], [[1.0, np.nan]])
