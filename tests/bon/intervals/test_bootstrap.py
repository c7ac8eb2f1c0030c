"""Intervals against simulated studies of known truth, closed forms of bootstrap variances, and scipy."""

import numpy as np
import pytest
from scipy import stats

from bon.intervals import bootstrap_mean, bootstrap_seeds_mean, jackknife, paired_difference, seeds_mean


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_same_generator_state_gives_the_same_interval_and_another_gives_another():
    values = rng(1).normal(size=50)
    first, again, other = (bootstrap_mean(values, rng(seed)) for seed in (5, 5, 6))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)
    assert paired_difference(values, values**2, rng(5)) == paired_difference(values, values**2, rng(5))


def test_numpys_global_generator_is_not_read_or_moved():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    bootstrap_mean(np.arange(5.0), rng())
    paired_difference(np.arange(5.0), np.ones(5), rng())
    bootstrap_seeds_mean(np.arange(6.0).reshape(2, 3), rng())
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_interval_agrees_with_scipys_percentile_bootstrap():
    values = rng(2).exponential(size=80)
    ours = bootstrap_mean(values, rng(3), resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(4)).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    # A tail quantile of 20,000 resamples has a standard deviation of 0.02 standard errors.
    spread = values.std() / np.sqrt(80)
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * spread)


def test_interval_covers_the_truth_in_95_of_100_studies():
    # 400 studies of 60 prompts, 4 candidates each (which share their prompt's level, so they are averaged first).
    # The share covered has a standard deviation of sqrt(.95 * .05 / 400) = 0.011.
    generator = rng(7)
    covered = 0
    for _ in range(400):
        prompt = generator.normal(1.0, 1.0, size=(60, 1))
        per_prompt = (prompt + generator.normal(size=(60, 4))).mean(1)
        interval = bootstrap_mean(per_prompt, generator, resamples=500)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.91 <= covered / 400 <= 0.98


def test_bca_agrees_with_scipys():
    # Skewed, 30 prompts: BCa and percentile differ by half a standard error at the upper end.
    values = rng(2).exponential(size=30) ** 2
    spread = values.std() / np.sqrt(30)
    ours = bootstrap_mean(values, rng(3), resamples=20_000, method="bca")
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=rng(4)).confidence_interval
    percentile = bootstrap_mean(values, rng(3), resamples=20_000)
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * spread)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * spread)
    assert ours.high - percentile.high > 0.2 * spread


def test_bca_of_columns_is_that_of_each_and_follows_affine_maps():
    values = rng(1).exponential(size=40)
    several = bootstrap_mean(np.stack([values, 2 * values + 1, -values], 1), rng(2), method="bca")
    alone = bootstrap_mean(values, rng(2), method="bca")
    assert several.low.shape == (3,)
    np.testing.assert_allclose([several.low[0], several.high[0]], [alone.low, alone.high])
    np.testing.assert_allclose(several.low[1], 2 * several.low[0] + 1)
    np.testing.assert_allclose(several.low[2], -several.high[0], atol=1e-12)


def test_bca_of_equal_prompts_is_a_point():
    assert bootstrap_mean(np.full(10, 3.0), rng(), method="bca") == (3.0, 3.0, 3.0)


def test_bca_covers_skewed_means_better_with_few_prompts():
    # 500 studies of 15 prompts; both see the same resamples, so that their difference is sharper than either.
    generator = rng(9)
    covered = {"percentile": 0, "bca": 0}
    for study in range(500):
        values = generator.exponential(size=15)
        for method in covered:
            interval = bootstrap_mean(values, rng(study), resamples=500, method=method)
            covered[method] += interval.low <= 1.0 <= interval.high
    assert covered["bca"] > covered["percentile"]


def test_candidates_taken_for_prompts_would_cover_too_little():
    # The oracle's counterpart: with 240 "independent" candidates instead of 60 prompts, the interval is too narrow.
    generator = rng(7)
    prompt = generator.normal(1.0, 1.0, size=(60, 1))
    candidates = prompt + 0.3 * generator.normal(size=(60, 4))
    right = bootstrap_mean(candidates.mean(1), rng(1))
    wrong = bootstrap_mean(candidates.ravel(), rng(1))
    assert (right.high - right.low) > 1.6 * (wrong.high - wrong.low)


def test_paired_difference_covers_and_rejects_at_its_nominal_rates():
    # 400 studies with true difference 0.2; the level shared by a prompt's two methods is far larger than the difference.
    generator = rng(8)
    covered = rejected_null = agree = 0
    for _ in range(400):
        prompt = generator.normal(0.0, 5.0, size=60)
        a = prompt + 0.2 + generator.normal(size=60)
        b = prompt + generator.normal(size=60)
        result = paired_difference(a, b, generator, resamples=500)
        covered += result.low <= 0.2 <= result.high
        null = paired_difference(a - 0.2, b, generator, resamples=500)
        rejected_null += null.p_value < 0.05
        # The p-value inverts the interval (up to the +1 that keeps it off zero).
        agree += (null.p_value < 0.05) == (not null.low <= 0 <= null.high)
    assert 0.91 <= covered / 400 <= 0.98
    assert 0.02 <= rejected_null / 400 <= 0.09
    assert agree >= 392


def test_pairing_takes_the_spread_between_prompts_out_of_the_interval():
    prompt = rng(1).normal(0.0, 10.0, size=100)
    a = prompt + 1.0 + 0.1 * rng(2).normal(size=100)
    b = prompt + 0.1 * rng(3).normal(size=100)
    result = paired_difference(a, b, rng())
    assert result.value == pytest.approx((a - b).mean())
    assert result.low < result.value < result.high
    assert result.high - result.low < 0.1


def test_paired_difference_changes_sign_with_its_arguments():
    a, b = rng(1).normal(size=30), rng(2).normal(size=30)
    one, other = paired_difference(a, b, rng(3)), paired_difference(b, a, rng(3))
    np.testing.assert_allclose([one.value, one.low, one.high], [-other.value, -other.high, -other.low], atol=1e-12)
    assert one.p_value == other.p_value


def test_p_value_is_one_for_equal_methods_and_as_small_as_the_resamples_allow_for_surely_different_ones():
    a = rng(1).normal(size=30)
    assert paired_difference(a, a, rng()).p_value == 1.0
    assert paired_difference(a + 100, a + rng(2).normal(size=30), rng(), resamples=999).p_value == pytest.approx(2 / 1000)


def test_columns_are_resampled_together():
    values = rng(1).normal(size=40)
    several = bootstrap_mean(np.stack([values, 2 * values + 1, -values], 1), rng(2))
    assert several.value.shape == several.low.shape == several.high.shape == (3,)
    np.testing.assert_allclose(several.low[1], 2 * several.low[0] + 1)
    np.testing.assert_allclose(several.low[2], -several.high[0])
    alone = bootstrap_mean(values, rng(2))
    np.testing.assert_allclose([alone.low, alone.high], [several.low[0], several.high[0]])


def test_more_confidence_is_a_wider_interval_around_the_same_value():
    values = rng(1).normal(size=40)
    narrow, wide = (bootstrap_mean(values, rng(2), confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_seed_bootstrap_has_the_variance_of_seeds_and_prompts_added():
    # With value[s, p] = a_s + b_p the bootstrap mean has variance var(a) / S + var(b) / P (population variances).
    a, b = rng(1).normal(0, 0.5, size=12), rng(2).normal(0, 2.0, size=50)
    values = a[:, None] + b[None]
    result = bootstrap_seeds_mean(values, rng(3), confidence=0.6827, resamples=20_000)
    deviation = np.sqrt(a.var() / 12 + b.var() / 50)
    assert result.value == pytest.approx(values.mean())
    assert (result.high - result.low) / 2 == pytest.approx(deviation, rel=0.04)


def test_with_one_seed_only_prompts_are_resampled():
    values = rng(1).normal(size=50)
    seeds = bootstrap_seeds_mean(values[None], rng(2), resamples=20_000)
    prompts = bootstrap_mean(values, rng(3), resamples=20_000)
    assert seeds.value == pytest.approx(prompts.value)
    np.testing.assert_allclose([seeds.low, seeds.high], [prompts.low, prompts.high], atol=0.1 * values.std() / np.sqrt(50))


def test_spread_between_training_seeds_widens_the_interval():
    calm = np.tile(rng(1).normal(size=40), (5, 1))
    wild = calm + np.array([-2.0, -1.0, 0.0, 1.0, 2.0])[:, None]
    narrow, wide = bootstrap_seeds_mean(calm, rng(2)), bootstrap_seeds_mean(wild, rng(2))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_seed_bootstrap_of_several_quantities_resamples_them_together():
    values = rng(1).normal(size=(3, 20))
    several = bootstrap_seeds_mean(np.stack([values, 3 * values], -1), rng(2))
    np.testing.assert_allclose(several.low[1], 3 * several.low[0])
    np.testing.assert_allclose(several.value, [values.mean(), 3 * values.mean()])


def test_jackknife_of_a_mean_is_its_classical_normal_interval():
    values = rng(1).normal(size=25)
    without = (values.sum() - values) / 24
    result = jackknife(values.mean(), without)
    error = values.std(ddof=1) / 5
    np.testing.assert_allclose(
        result, [values.mean(), values.mean() - 1.959964 * error, values.mean() + 1.959964 * error], atol=1e-6
    )


def test_seeds_mean_has_the_variance_of_a_balanced_crossed_design():
    # Seeds and prompts that simply add: no rest, so the variance is that of the two means.
    a, b = rng(1).normal(0, 0.5, size=6), rng(2).normal(0, 2.0, size=50)
    result = seeds_mean(a[:, None] + b, confidence=0.95)
    variance = a.var(ddof=1) / 6 + b.var(ddof=1) / 50
    freedom = variance**2 / ((a.var(ddof=1) / 6) ** 2 / 5 + (b.var(ddof=1) / 50) ** 2 / 49)
    assert result.value == pytest.approx(a.mean() + b.mean())
    assert (result.high - result.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance))


def test_seeds_mean_covers_where_few_seeds_dominate_and_the_bootstrap_does_not():
    # 500 studies of 4 seeds whose means vary as much as those of the 40 prompts three times over.
    generator = rng(3)
    covered = np.zeros(2)
    for _ in range(500):
        values = generator.normal(0, 0.5, (4, 1)) + generator.normal(0, 1, 40) + 0.5 * generator.normal(size=(4, 40))
        for k, interval in enumerate((seeds_mean(values), bootstrap_seeds_mean(values, generator, resamples=300))):
            covered[k] += interval.low <= 0 <= interval.high
    assert 0.92 <= covered[0] / 500 <= 0.98
    assert covered[1] / 500 < 0.9


def test_seeds_mean_of_several_quantities_and_of_equal_numbers():
    values = rng(1).normal(size=(3, 20))
    several, alone = seeds_mean(np.stack([values, 3 * values], -1)), seeds_mean(values)
    np.testing.assert_allclose(several.low, [alone.low, 3 * alone.low])
    equal = seeds_mean(np.ones((3, 20)))
    assert (equal.low, equal.high) == (1.0, 1.0)


def test_jackknife_of_several_statistics_is_that_of_each():
    without = rng(1).normal(size=(12, 3))
    several = jackknife(without.mean(0), without)
    for k in range(3):
        np.testing.assert_allclose([part[k] for part in several], jackknife(without[:, k].mean(), without[:, k]))


def test_fewer_than_two_prompts_and_broken_numbers_are_refused():
    with pytest.raises(ValueError, match=r"values must hold at least 2 prompts .* got shape \(1,\)"):
        bootstrap_mean([1.0], rng())
    with pytest.raises(ValueError, match="values must be finite"):
        bootstrap_mean([1.0, np.nan], rng())
    with pytest.raises(ValueError, match="a must hold at least 2 prompts"):
        paired_difference([1.0], [1.0], rng())
    with pytest.raises(ValueError, match="b must be finite"):
        paired_difference([1.0, 2.0], [1.0, np.inf], rng())
    with pytest.raises(ValueError, match=r"same prompts, got shapes \(3,\) and \(2,\)"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0], rng())
    with pytest.raises(ValueError, match=r"\[seeds, prompts\].*got shape \(3,\)"):
        bootstrap_seeds_mean([1.0, 2.0, 3.0], rng())
    with pytest.raises(ValueError, match="at least 2 prompts"):
        bootstrap_seeds_mean([[1.0], [2.0]], rng())
    with pytest.raises(ValueError, match=r"at least 2 seeds in its first dimension, got shape \(1, 3\)"):
        seeds_mean([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"shape \(3,\) with 1 that are not"):
        seeds_mean([[1.0, 2.0, 3.0], [1.0, np.nan, 3.0]])
    with pytest.raises(ValueError, match=r"estimate must have shape \(2,\).*got \(\)"):
        jackknife(1.0, np.ones((3, 2)))
    with pytest.raises(ValueError, match="method must be percentile or bca, got 'basic'"):
        bootstrap_mean([1.0, 2.0], rng(), method="basic")
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_mean([1.0, 2.0], rng(), resamples=0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_outside_zero_to_one_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        bootstrap_mean([1.0, 2.0], rng(), confidence=confidence)
