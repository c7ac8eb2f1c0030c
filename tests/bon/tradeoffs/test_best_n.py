"""The n at which gold peaks: known peaks, the interval's coverage, and a value that is not what it was chosen for."""

import numpy as np
import pytest

from bon.tradeoffs.best_n import best_n

NORMAL_MAXIMA = [0.0, 0.5642, 0.8463, 1.0294, 1.1630, 1.2672, 1.3522, 1.4236]  # of n standard normals


def pool(seed, prompts=60, candidates=16):
    scores = np.random.default_rng(seed).normal(size=(prompts, candidates))
    return scores, -((scores - 1.0) ** 2)


def truth(candidates=16):
    """The n that is best of 20,000 prompts."""
    scores, gold = pool(99, 20000, candidates)
    return best_n(scores, gold, np.random.default_rng(0), resamples=2)


def test_gold_that_agrees_peaks_at_the_last_n_and_gold_that_does_not_at_the_first():
    scores, _ = pool(0)
    assert best_n(scores, scores, np.random.default_rng(0))[:3] == (16, 16, 16)
    assert best_n(scores, -scores, np.random.default_rng(0))[:3] == (1, 1, 1)
    np.testing.assert_allclose(best_n(*pool(1, 20000, 8), np.random.default_rng(0), resamples=2).curve[0], -2.0, atol=0.05)
    agreed = best_n(pool(1, 20000, 8)[0], pool(1, 20000, 8)[0], np.random.default_rng(0), resamples=2)
    np.testing.assert_allclose(agreed.curve, NORMAL_MAXIMA, atol=0.02)


def test_the_interval_covers_the_peak_and_the_value_is_not_above_what_new_prompts_give():
    true = truth()
    assert 4 <= true.n <= 6
    covered, values, naive = 0, [], []
    for seed in range(40):
        found = best_n(*pool(seed, 40), np.random.default_rng(seed), resamples=200)
        covered += found.low <= true.n <= found.high
        values.append(found.value.value)
        naive.append(found.curve.max())
        assert found.low <= found.n <= found.high
    assert covered >= 34
    error = np.std(values) / np.sqrt(40)
    assert np.mean(values) < true.curve.max() + 3 * error
    assert np.mean(naive) > np.mean(values)  # the peak's own height flatters


def test_few_labels_are_refused():
    with pytest.raises(ValueError, match="at least 3 labelled prompts, got 2"):
        best_n(np.zeros((2, 4)), np.zeros((2, 4)), np.random.default_rng(0))
