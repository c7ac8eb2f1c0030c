"""Statistics over training seeds: reduced to those of one training, to closed forms, and against studies of known truth."""

import numpy as np
import pytest
from scipy import stats

from bon.estimators import best_of_n_mean
from bon.intervals import jackknife, paired_difference, seeds_mean
from bon.tradeoffs.frontier import Frontier, difference_at, equivalent_n
from bon.tradeoffs.over_seeds import (
    LEAST_P,
    each_equivalent_n,
    predicted_equivalent_n,
    seeds_difference,
    seeds_difference_at,
    seeds_equivalent_n,
    seeds_gold_decline,
    seeds_jackknife,
    seeds_overoptimisation,
)
from bon.tradeoffs.overoptimisation import fit_overoptimisation

PROMPTS = 200


def rng(seed=0):
    return np.random.default_rng(seed)


def copies(values, seeds=3):
    """A training whose seeds all came out alike: only the prompts scatter."""
    return np.stack([values] * seeds)


def test_difference_of_two_trainings_by_hand():
    # Prompts alike, seeds 1 apart: the standard error is that of two numbers, their degree of freedom is 1.
    found = seeds_difference(np.zeros(4), np.array([[1.0] * 4, [2.0] * 4]))
    assert found.value == -1.5
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 1) * 0.5)
    assert found.p_value == pytest.approx(2 * stats.t.sf(3, 1))


def test_difference_of_identical_trainings_is_the_paired_t_test():
    a, b = rng(1).normal(0.3, 1.0, PROMPTS), rng(2).normal(size=PROMPTS)
    found, test = seeds_difference(a, copies(b)), stats.ttest_rel(a, b)
    assert test.pvalue > LEAST_P
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()))
    boot = paired_difference(a, b, rng(), resamples=20_000)
    assert found.low == pytest.approx(boot.low, abs=0.01)


def test_no_scatter_at_all():
    assert seeds_difference(np.ones(3), np.zeros((2, 3))).p_value == LEAST_P
    assert seeds_difference(np.ones(3), np.ones((2, 3))).p_value == 1


def test_the_jackknife_of_a_mean_is_seeds_mean():
    values = rng(3).normal(size=(4, 30, 2)) + rng(4).normal(size=(4, 1, 1))
    without = (values.sum(1, keepdims=True) - values) / 29
    for ours, theirs in zip(seeds_jackknife(values.mean(1), without), seeds_mean(values), strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_the_jackknife_of_identical_trainings_is_that_of_one():
    x, y = rng(5).exponential(size=(2, PROMPTS))
    ratio = x.sum() / y.sum()
    without = (x.sum() - x) / (y.sum() - y)
    one, several = jackknife(ratio, without), seeds_jackknife([ratio] * 3, copies(without))
    assert several.value == pytest.approx(ratio)
    # Student's t with 199 degrees of freedom for the normal's 1.96.
    assert several.high - ratio == pytest.approx((one.high - ratio) * stats.t.ppf(0.975, PROMPTS - 1) / 1.959964, rel=1e-4)


def test_equivalent_n_is_where_the_difference_is_not_significant():
    curve = np.log(np.arange(1, 33)) + rng(6).normal(size=(PROMPTS, 1))
    target = curve[:, 7] + 0.2 * rng(7).normal(size=PROMPTS)
    found, boot = seeds_equivalent_n(curve, copies(target)), equivalent_n(curve, target, rng(), resamples=5_000)
    assert found.value == pytest.approx(boot.value)
    assert found.low == pytest.approx(boot.low, rel=0.02)
    assert found.high == pytest.approx(boot.high, rel=0.02)
    # At both ends the interval of the difference touches zero.
    spread = stats.t.ppf(0.975, PROMPTS - 1) * (curve[:, 7] - target).std(ddof=1) / np.sqrt(PROMPTS)
    assert np.log(found.low) == pytest.approx(target.mean() - curve[:, 0].mean() - spread, abs=0.01)
    assert np.log(found.high) == pytest.approx(target.mean() - curve[:, 0].mean() + spread, abs=0.01)


def test_equivalent_n_grows_uncertain_with_the_seeds_and_is_censored():
    curve = np.log(np.arange(1, 33)) + np.zeros((PROMPTS, 1))
    near = seeds_equivalent_n(curve, np.log([[7.9], [8.1]]) + np.zeros(PROMPTS))
    far = seeds_equivalent_n(curve, np.log([[6.0], [10.5]]) + np.zeros(PROMPTS))
    assert far.low < near.low < near.value < near.high < far.high
    assert np.isinf(far.high)  # two seeds that far apart say little
    beyond = seeds_equivalent_n(curve, np.full((2, PROMPTS), 9.0))
    assert np.isinf(beyond.value)
    assert np.isinf(beyond.low)
    assert seeds_equivalent_n(curve, np.full((2, PROMPTS), -1.0)).value == 1


def test_equal_cost_of_identical_trainings_agrees_with_the_bootstrap():
    level = rng(8).normal(size=(PROMPTS, 1))
    a = Frontier([0.0, 1.0, 2.0, 3.0], level + [0.0, 1.0, 1.6, 2.0] + 0.3 * rng(9).normal(size=(PROMPTS, 4)))
    cost = np.array([0.0, 1.4, 2.8]) + 0.2 * rng(10).normal(size=(PROMPTS, 3)) * [0, 1, 1]
    reward = level + [0.0, 0.7, 1.5] + 0.3 * rng(11).normal(size=(PROMPTS, 3))
    at = [0.5, 2.0, 9.0]
    one = difference_at(a, Frontier(cost, reward), rng(), at, resamples=20_000)
    several = seeds_difference_at(a, Frontier(copies(cost), copies(reward)), at)
    np.testing.assert_allclose(several.value[:2], one.value[:2])
    np.testing.assert_allclose(several.low[:2], one.low[:2], atol=0.006)
    np.testing.assert_allclose(several.high[:2], one.high[:2], atol=0.006)
    assert np.isnan(several.value[2])
    assert np.isnan(several.low[2])


def test_equal_cost_reads_every_seed_on_its_own_path():
    a = Frontier([0.0, 10.0], np.tile([0.0, 10.0], (5, 1)))
    cost = np.array([[[0.0, 4.0]], [[0.0, 8.0]]]) + np.zeros((2, 5, 1))
    reward = np.array([[[0.0, 2.0]], [[0.0, 2.0]]]) + np.zeros((2, 5, 1))
    found = seeds_difference_at(a, Frontier(cost, reward), [2.0, 4.0, 6.0])
    # At 2: 2 - 1 and 2 - 0.5; at 4: 4 - 2 and 4 - 1; the first seed does not get to 6.
    assert found.value[:2].tolist() == [1.25, 2.5]
    assert found.high[0] - 1.25 == pytest.approx(stats.t.ppf(0.975, 1) * 0.25)
    assert np.isnan(found.value[2])


@pytest.mark.parametrize("form", ["best_of_n", "rl"])
def test_fits_of_identical_trainings_agree_with_the_bootstrap(form):
    d = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    shape = d * (1.0 - 0.3 * d) if form == "best_of_n" else d * (1.0 - 0.8 * np.log(d))
    kl = d**2 + 0.2 * rng(12).normal(size=(PROMPTS, 5))
    gain = shape + 0.3 * rng(13).normal(size=(PROMPTS, 5)) + 0.2 * rng(14).normal(size=(PROMPTS, 1))
    one = fit_overoptimisation(kl, gain, form, rng(), resamples=20_000)
    several = seeds_overoptimisation(copies(kl), copies(gain), form)
    for name in ("alpha", "beta", "peak"):
        ours, theirs = getattr(several, name), getattr(one, name)
        width = theirs.high - theirs.low
        assert ours.value == pytest.approx(theirs.value)
        assert ours.low == pytest.approx(theirs.low, abs=0.06 * width)
        assert ours.high == pytest.approx(theirs.high, abs=0.06 * width)
    assert several.residual == pytest.approx(one.residual)


def test_a_fit_that_may_never_turn_has_a_peak_without_bounds():
    d = np.array([0.5, 1.0, 1.5, 2.0])
    gains = np.stack([np.tile(d * (1 - slope * d), (6, 1)) for slope in (-0.1, 0.2)])
    fit = seeds_overoptimisation(np.broadcast_to(d**2, gains.shape), gains, "best_of_n")
    assert fit.beta.value == pytest.approx(0.05)
    assert fit.peak.value == pytest.approx(10.0)
    assert (fit.peak.low, fit.peak.high) == (0.0, np.inf)


def test_gold_declines_where_all_seeds_agree():
    kl = np.broadcast_to([0.0, 1.0, 2.0, 2.1], (3, 50, 4))
    up = np.broadcast_to([0.0, 1.0, 2.0, 3.0], (3, 50, 4)) + 0.1 * rng(15).normal(size=(3, 50, 4))
    turned = np.broadcast_to([0.0, 1.0, 0.8, 0.5], (3, 50, 4)) + 0.1 * rng(16).normal(size=(3, 50, 4))
    found = seeds_gold_decline(kl, up, turned)
    assert found.declines
    assert (found.since, found.since_kl) == (1, 1.0)
    assert found.gold.value == pytest.approx(-0.5, abs=0.05)
    change = seeds_mean(turned[..., 3] - turned[..., 1])
    assert (found.gold.low, found.gold.high) == (change.low, change.high)
    np.testing.assert_allclose(found.each_gold, (turned[..., 3] - turned[..., 1]).mean(1))
    assert not seeds_gold_decline(kl, up, up).declines
    quarrel = turned + np.array([0.0, 0.0, 1.0]).reshape(3, 1, 1) * [0, 0, 0, 1.2]
    assert not seeds_gold_decline(kl, up, quarrel).declines


def test_a_path_that_goes_back_in_kl_is_read_where_it_first_reaches_it():
    a = Frontier([0.0, 9.0], np.zeros((5, 2)))
    # Each seed reaches 4 nats at reward 2, overshoots to 9 (reward 3), comes back to 4 with reward 9.
    cost = np.tile([0.0, 4.0, 9.0, 4.0], (2, 5, 1))
    reward = np.tile([0.0, 2.0, 3.0, 9.0], (2, 5, 1))
    in_turn = seeds_difference_at(a, Frontier(cost, reward, in_turn=True), [1.0, 4.0, 6.25], scale="sqrt")
    # In the square root: 1 of 2 to the first point; there; half of 2 to 3 from there.
    np.testing.assert_allclose(in_turn.value, [-1.0, -2.0, -2.5])
    sorted_by_cost = seeds_difference_at(a, Frontier(cost, reward), [6.25], scale="sqrt")
    assert sorted_by_cost.value[0] == pytest.approx(-6.0)  # half way from 9 down to 3


def test_a_band_over_points_is_wider_than_an_interval_and_narrower_than_bonferroni():
    reward = (
        np.array([0.0, 1.0, 2.0, 3.0]) + rng(18).normal(size=(5, 1, 1)) * [0, 0.1, 0.1, 0.1] + rng(19).normal(size=(5, 40, 4))
    )
    a = Frontier([0.0, 1.0, 2.0, 3.0], 1.0 + rng(20).normal(size=(40, 4)))
    found = seeds_difference_at(a, Frontier(np.broadcast_to([0.0, 1.0, 2.0, 3.0], reward.shape), reward), [1.0, 2.0, 3.0, 9.0])
    one, band = (found.high - found.low)[:3], (found.band_high - found.band_low)[:3]
    assert (band > one).all()
    apart = seeds_difference_at(
        a, Frontier(np.broadcast_to([0.0, 1.0, 2.0, 3.0], reward.shape), reward), [1.0, 2.0, 3.0], 1 - 0.05 / 3
    )
    assert (band < 1.15 * (apart.high - apart.low)).all()
    assert np.isnan(np.array(found)[:, 3]).all()


def test_what_one_more_training_is_worth_scatters_as_seeds_do():
    curve = best_of_n_mean(np.random.default_rng(21).normal(size=(80, 64)))
    effects = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    targets = curve[:, 7] + effects[:, None]
    one, mean = predicted_equivalent_n(curve, targets), seeds_equivalent_n(curve, targets)
    assert one.value == mean.value == pytest.approx(8)
    assert one.low < mean.low < mean.high < one.high
    each = each_equivalent_n(curve, targets)
    assert each[2] == pytest.approx(8)
    assert (np.diff(each) > 0).all()
    assert one.low < each.min() < each.max() < one.high
    assert np.isinf(each_equivalent_n(curve, targets + 9)).all()


def test_a_prediction_interval_holds_one_more_training_in_95_of_100_studies():
    # 400 studies of 4 trainings and a fifth one: the share has a standard deviation of 0.011.
    generator, held = rng(22), 0
    curve = np.log(np.arange(1, 257)) + np.zeros((30, 1))
    for _ in range(400):
        means = np.log(12) + 0.3 * generator.normal(size=5)
        low, high = predicted_equivalent_n(curve, means[:4, None] + 0.05 * generator.normal(size=(4, 30)))[1:]
        held += low <= np.exp(means[4]) <= high
    assert 0.92 <= held / 400 <= 0.98


def test_equivalent_n_of_few_seeds_covers_the_truth():
    # 400 studies of 4 seeds whose log n scatters by 0.3 around log 6: 95 of 100 intervals hold 6.
    # The share has a standard deviation of 0.011.
    generator, curve = rng(17), np.log(np.arange(1, 65)) + np.zeros((30, 1))
    held = 0
    for _ in range(400):
        targets = np.log(6) + generator.normal(0, 0.3, (4, 1)) + 0.1 * generator.normal(size=(4, 30))
        low, high = seeds_equivalent_n(curve, targets)[1:]
        held += low <= 6 <= high
    assert 0.91 <= held / 400 <= 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: seeds_difference(np.zeros(3), np.zeros((1, 3))), r"b must be \[seeds, prompts\] with at least 2 seeds"),
        (lambda: seeds_equivalent_n(np.zeros((3, 2)), np.zeros((2, 4))), r"curve must be \[P, N\] and targets \[S, P\]"),
        (lambda: seeds_jackknife(np.zeros(2), np.zeros((3, 4))), r"estimates must be \[S, ...\]"),
        (lambda: seeds_overoptimisation(np.zeros((2, 3, 4)), np.zeros((2, 3, 5)), "rl"), r"kl and gain must be \[S, P, K\]"),
        (
            lambda: seeds_gold_decline(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), np.zeros((2, 3, 5))),
            r"kl, proxy and gold must be \[S, P, K\]",
        ),
        (
            lambda: seeds_difference_at(
                Frontier([1.0], np.zeros((3, 1))), Frontier(np.zeros((2, 4, 1)), np.zeros((2, 4, 1))), [1]
            ),
            r"b must be \[S, P, K\] on the prompts of a",
        ),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
