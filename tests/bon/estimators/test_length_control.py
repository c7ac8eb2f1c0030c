"""The length-controlled win rate: what a logistic model was drawn from, invariances, and the plain rate without a slope."""

import numpy as np
import pytest

from bon.estimators import length_controlled_win_rate


def test_it_finds_the_rate_at_equal_length_of_the_model_that_drew_the_wins():
    rng = np.random.default_rng(0)
    lengths, opponent = rng.integers(20, 120, 40000), rng.integers(20, 80, 40000)
    longer = lengths - opponent
    chance = 1 / (1 + np.exp(-(0.4 + 1.5 * np.tanh(longer / longer.std()))))
    wins = rng.random(40000) < chance
    found = length_controlled_win_rate(wins, lengths, opponent, ridge=1e-6)
    assert found == pytest.approx(1 / (1 + np.exp(-0.4)), abs=0.012)
    assert wins.mean() > found + 0.03  # the plain rate pays for length


def test_without_differences_it_is_the_win_rate():
    wins = [1.0, 0.5, 0.0, 1.0]
    assert length_controlled_win_rate(wins, [7] * 4, [7] * 4, ridge=1e-9) == pytest.approx(0.625, abs=1e-6)


def test_the_other_side_has_the_other_rate_and_the_unit_of_length_does_not_matter():
    rng = np.random.default_rng(1)
    wins, a, b = rng.random(50), rng.integers(1, 50, 50), rng.integers(1, 50, 50)
    found = length_controlled_win_rate(wins, a, b)
    assert length_controlled_win_rate(1 - wins, b, a) == pytest.approx(1 - found, abs=1e-9)
    assert length_controlled_win_rate(wins, 4 * a, 4 * b) == pytest.approx(found, abs=1e-9)


def test_wins_that_length_tells_wholly_stay_finite():
    assert length_controlled_win_rate([1, 1, 1, 0], [9, 8, 9, 1], [5, 5, 5, 5]) < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1], [1]), "at least 2 comparisons"),
        (([1.0, 2.0], [1, 1], [1, 2]), "wins must lie in 0..1"),
        (([1.0, np.nan], [1, 1], [1, 2]), "all finite"),
        (([1.0, 0.0], [1, 1, 1], [1, 2, 3]), "cannot be compared"),
    ],
)
def test_what_is_no_comparison_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        length_controlled_win_rate(*arguments)
