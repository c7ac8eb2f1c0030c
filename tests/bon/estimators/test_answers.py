"""pass@k, pass^k and the majority of k for every k: against all subsets, one by one."""

from itertools import combinations

import numpy as np
import pytest

from bon.estimators import best_of_n_mean, majority_at_k, pass_at_k, pass_hat_k


def by_enumeration(row, value):
    """Mean of a function of the chosen places over all k-subsets, for every k."""
    return [np.mean([value(subset) for subset in combinations(range(len(row)), k)]) for k in range(1, len(row) + 1)]


@pytest.mark.parametrize("right", range(8))
def test_at_least_one_and_all_right(right):
    correct = [place < right for place in range(7)]
    np.testing.assert_allclose(pass_at_k([correct])[0], by_enumeration(correct, lambda s: any(correct[i] for i in s)))
    np.testing.assert_allclose(
        pass_hat_k([correct])[0], by_enumeration(correct, lambda s: all(correct[i] for i in s)), atol=1e-15
    )


def test_at_least_one_right_is_the_best_of_truth_values():
    correct = np.random.default_rng(0).random((20, 300)) < 0.1
    np.testing.assert_allclose(pass_at_k(correct), best_of_n_mean(correct), atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_majority_of_k_is_that_of_all_subsets(seed):
    rng = np.random.default_rng(seed)
    row = [None if number == 4 else f"a{number}" for number in rng.integers(0, 5, size=9)]
    good = {"a0", "a2"} if seed % 2 else {"a1"}
    correct = [one in good for one in row]

    def share(subset):
        votes = {}
        for place in subset:
            if row[place] is not None:
                votes[row[place]] = votes.get(row[place], 0) + 1
        leading = [one for one in votes if votes[one] == max(votes.values())]
        return np.mean([one in good for one in leading]) if leading else 0.0

    np.testing.assert_allclose(majority_at_k([row], [correct])[0], by_enumeration(row, share), atol=1e-12)


def test_majorities_of_large_pools_are_probabilities_and_the_last_is_certain():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 12, size=(2, 120)) ** 2 // 20
    found = majority_at_k(answers, answers == 0)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-9
    np.testing.assert_allclose(found[:, 0], (answers == 0).mean(1))
    np.testing.assert_allclose(found[:, -1], 1.0)  # the most frequent of the whole pool


@pytest.mark.parametrize("correct", [[[0.5]], [["yes"]], [1, 0], [[]], [[None]]])
def test_what_is_neither_right_nor_wrong_is_refused(correct):
    with pytest.raises(ValueError, match="correct must"):
        pass_at_k(correct)


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'4' of prompt 0 is right in one candidate and wrong in another"):
        majority_at_k([["4", "4"]], [[True, False]])
    with pytest.raises(ValueError, match="answers must have the shape of correct"):
        majority_at_k([["4"]], [[True, False]])
    with pytest.raises(ValueError, match="up to 1000 candidates, got 1001"):
        majority_at_k(np.zeros((1, 1001)), np.ones((1, 1001)))
