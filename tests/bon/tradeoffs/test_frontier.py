"""Comparison at equal cost and equivalent n: closed forms, and simulated studies of known truth."""

import numpy as np
import pytest

from bon.estimators import best_of_n_mean
from bon.tradeoffs.frontier import Frontier, difference_at, equivalent_n


def rng(seed=0):
    return np.random.default_rng(seed)


def study(generator, prompts=100):
    """a is 1 + cost and b is 0.5 * cost, plus a level of each prompt and noise of each point."""
    level = generator.normal(0, 3, (prompts, 1))
    costs_a, costs_b = np.array([0.0, 1.0, 3.0]), np.array([0.5, 2.0])
    a = Frontier(costs_a, level + 1 + costs_a + 0.3 * generator.normal(size=(prompts, 3)))
    b = Frontier(costs_b, level + 0.5 * costs_b + 0.3 * generator.normal(size=(prompts, 2)))
    return a, b


def test_difference_at_given_costs_interpolates_both():
    a = Frontier([0.0, 2.0], [[0.0, 4.0], [2.0, 2.0]])
    b = Frontier([1.0, 2.0], [[0.0, 1.0], [0.0, 3.0]])
    result = difference_at(a, b, rng(), at=[1.0, 1.5, 2.0])
    # a: 1 + cost; b: 2 (cost - 1).
    np.testing.assert_allclose(result.value, [2.0, 1.5, 1.0])
    assert (result.low <= result.value).all()
    assert (result.value <= result.high).all()


def test_nothing_is_extrapolated():
    a, b = study(rng(1))
    result = difference_at(a, b, rng(), at=[0.4, 0.6, 1.9, 2.1])
    np.testing.assert_array_equal(np.isnan(result.value), [True, False, False, True])
    np.testing.assert_array_equal(np.isnan(result.low), np.isnan(result.high))
    single = Frontier([9.0], b.reward[:, :1])
    assert np.isnan(difference_at(a, single, rng()).value).all()


def test_at_the_points_of_b_its_own_rewards_are_compared():
    a, b = study(rng(2))
    result = difference_at(a, b, rng())
    means = a.reward.mean(0)
    expected = [means[:2].mean() - b.reward[:, 0].mean(), means[1:].mean() - b.reward[:, 1].mean()]
    np.testing.assert_allclose(result.value, expected)


def test_order_of_points_does_not_matter_and_the_sign_turns_with_the_methods():
    a, b = study(rng(3))
    backwards = Frontier(a.cost[::-1], a.reward[:, ::-1])
    one, other = difference_at(a, b, rng(5), at=[1.0]), difference_at(backwards, b, rng(5), at=[1.0])
    np.testing.assert_allclose(one, other)
    turned = difference_at(b, a, rng(5), at=[1.0])
    np.testing.assert_allclose([turned.value, turned.low, turned.high], [-one.value, -one.high, -one.low])


def test_cost_of_each_prompt_is_resampled_with_its_reward():
    # b lies on a's line prompt by prompt: whatever is resampled, the difference at its own mean cost is 0.
    costs = rng(4).uniform(0, 1, (50, 1))
    a = Frontier([0.0, 1.0], np.tile([0.0, 1.0], (50, 1)))
    result = difference_at(a, Frontier(costs, costs), rng())
    np.testing.assert_allclose([result.value, result.low, result.high], 0.0, atol=1e-12)


def test_difference_covers_the_truth_in_95_of_100_studies():
    generator = rng(6)
    covered = np.zeros(2)
    for _ in range(400):
        result = difference_at(*study(generator, 60), generator, at=[1.0, 2.0], resamples=400)
        covered += (result.low <= [1.5, 2.0]) & (result.high >= [1.5, 2.0])
    assert (covered / 400 >= 0.91).all()
    assert (covered / 400 <= 0.98).all()


def test_in_the_square_root_of_kl_a_straight_line_in_it_is_read_exactly():
    # Reward 3 sqrt(KL), known at 1 and 9 nats: at 4 nats it is 6; straight lines in KL say 5.25.
    a = Frontier([1.0, 9.0], np.tile([3.0, 9.0], (4, 1)))
    b = Frontier([0.0, 9.0], np.zeros((4, 2)))
    assert difference_at(a, b, rng(), at=[4.0], scale="sqrt").value[0] == pytest.approx(6.0)
    assert difference_at(a, b, rng(), at=[4.0]).value[0] == pytest.approx(5.25)
    with pytest.raises(ValueError, match="scale must be linear or sqrt, got 'log'"):
        difference_at(a, b, rng(), at=[4.0], scale="log")


def test_a_training_is_read_where_it_first_reaches_a_cost():
    a = Frontier([0.0, 5.0], np.zeros((4, 2)))
    back = Frontier([0.0, 2.0, 1.0, 4.0], np.tile([0.0, -2.0, -9.0, -6.0], (4, 1)), in_turn=True)
    # 1 on the way to 2; 3 on the way from 1 (reward 9) to 4 (reward 6): two thirds.
    np.testing.assert_allclose(difference_at(a, back, rng(), at=[1.0, 3.0]).value, [1.0, 7.0])
    assert np.isnan(difference_at(a, back, rng(), at=[4.5]).value[0])


def test_equivalent_n_of_best_of_k_itself_is_k():
    scores = rng(1).normal(size=(40, 32))
    curve = best_of_n_mean(scores)
    for k in (1, 2, 7, 32):
        result = equivalent_n(curve, curve[:, k - 1] - 1e-12 * (k == 32), rng())
        np.testing.assert_allclose([result.value, result.low, result.high], k, rtol=1e-6)


def test_equivalent_n_is_interpolated_in_log_n_and_censored_at_both_ends():
    curve = np.tile(np.log(np.arange(1, 9)), (5, 1))
    assert equivalent_n(curve, np.full(5, np.log(5.5)), rng()).value == pytest.approx(5.5)
    assert equivalent_n(curve, np.full(5, -1.0), rng()) == (1.0, 1.0, 1.0)
    assert equivalent_n(curve, np.full(5, 3.0), rng()) == (np.inf, np.inf, np.inf)


def test_equivalent_n_reads_the_rise_of_a_curve_that_bends_down():
    curve = np.tile([0.0, 1.0, 2.0, 1.0], (3, 1))
    assert equivalent_n(curve, np.full(3, 1.0), rng()).value == 2.0
    assert equivalent_n(curve, np.full(3, 2.5), rng()).value == np.inf


def test_an_interval_may_be_open_upwards_only():
    # The target is about best-of-N: some resamples do not reach it.
    scores = rng(2).normal(size=(50, 16))
    target = scores.max(1) + rng(3).normal(0, 0.5, 50)
    result = equivalent_n(best_of_n_mean(scores), target - target.mean() + scores.max(1).mean() - 0.01, rng())
    assert result.low < 16
    assert result.high == np.inf
    assert result.low < result.value <= 16


def test_equivalent_n_covers_the_truth_in_95_of_100_studies():
    # Uniform scores: best-of-n has mean n / (n + 1), and a target of mean 0.8 is worth n = 4.
    generator = rng(7)
    covered = 0
    for _ in range(400):
        level = generator.normal(0, 1, (60, 1))
        curve = best_of_n_mean(level + generator.random((60, 16)))
        target = level[:, 0] + 0.8 + 0.1 * generator.normal(size=60)
        result = equivalent_n(curve, target, generator, resamples=400)
        covered += result.low <= 4.0 <= result.high
    assert 0.91 <= covered / 400 <= 0.98


def test_bad_arguments_are_refused():
    a, b = study(rng(), 5)
    with pytest.raises(ValueError, match=r"a\.reward must hold at least 2 prompts .*got shape \(1, 3\)"):
        difference_at(Frontier(a.cost, a.reward[:1]), b, rng())
    with pytest.raises(ValueError, match=r"same prompts, got reward shapes \(5, 3\) and \(4, 2\)"):
        difference_at(a, Frontier(b.cost, b.reward[:4]), rng())
    with pytest.raises(ValueError, match=r"b\.cost \[K\] or \[P, K\], got shapes \(5, 2\) and \(3,\)"):
        difference_at(a, Frontier(a.cost, b.reward), rng())
    with pytest.raises(ValueError, match=r"a\.cost must be finite"):
        difference_at(Frontier([0.0, np.nan, 1.0], a.reward), b, rng())
    with pytest.raises(ValueError, match="at must be finite"):
        difference_at(a, b, rng(), at=[np.inf])
    with pytest.raises(ValueError, match=r"curve must be \[P, N\] and target \[P\].*\(5, 3\) and \(4,\)"):
        equivalent_n(a.reward, np.zeros(4), rng())
    with pytest.raises(ValueError, match="target must be finite"):
        equivalent_n(a.reward, np.full(5, np.nan), rng())
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        equivalent_n(a.reward, np.zeros(5), rng(), confidence=95)
