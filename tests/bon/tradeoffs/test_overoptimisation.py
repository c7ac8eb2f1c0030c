"""Fits of Gao et al.: recovery of known curves, a general optimiser as peer; and false alarms of the decline."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from bon.tradeoffs.overoptimisation import fit_overoptimisation, gold_decline, half_way

KL = np.array([0.2, 0.6, 1.2, 2.0, 3.0, 4.0, 6.0, 9.0])
FORMS = {
    "best_of_n": lambda d, alpha, beta: d * (alpha - beta * d),
    "rl": lambda d, alpha, beta: d * (alpha - beta * np.log(d)),
}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("form", FORMS)
def test_a_curve_of_the_form_is_recovered_and_peaks_where_its_derivative_vanishes(form):
    curve = FORMS[form](np.sqrt(KL), 1.3, 0.4)
    fit = fit_overoptimisation(KL, np.tile(curve, (4, 1)), form, rng())
    for part, truth in ((fit.alpha, 1.3), (fit.beta, 0.4)):
        np.testing.assert_allclose([part.value, part.low, part.high], truth, atol=1e-9)
    assert fit.residual == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(fit.gain(KL), curve)
    peak = float(fit.peak.value)
    gains = fit.gain(np.array([peak - 1e-4, peak, peak + 1e-4]) ** 2)
    assert gains[1] > max(gains[0], gains[2])
    assert fit.gain(0.0) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_a_general_optimiser_finds_the_same_coefficients(form):
    gain = np.sqrt(KL) * 0.7 - 0.03 * KL + 0.3 * rng(1).normal(size=(30, len(KL)))
    fit = fit_overoptimisation(KL, gain, form, rng())
    theirs, _ = curve_fit(FORMS[form], np.sqrt(KL), gain.mean(0), p0=[1.0, 0.1])
    np.testing.assert_allclose([fit.alpha.value, fit.beta.value], theirs, rtol=1e-5)
    assert fit.residual == pytest.approx(np.sqrt(np.mean((gain.mean(0) - FORMS[form](np.sqrt(KL), *theirs)) ** 2)), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_intervals_cover_the_truth_in_95_of_100_studies(form):
    generator = rng(2)
    covered = np.zeros(3)
    curve = FORMS[form](np.sqrt(KL), 1.0, 0.3)
    peak = 1.0 / 0.6 if form == "best_of_n" else np.exp(1.0 / 0.3 - 1)
    for _ in range(300):
        slope = generator.normal(1.0, 0.2, (60, 1))  # prompts differ in how much they gain
        fit = fit_overoptimisation(
            KL, slope * curve + 0.1 * generator.normal(size=(60, len(KL))), form, generator, resamples=400
        )
        for k, (part, truth) in enumerate(zip((fit.alpha, fit.beta, fit.peak), (1.0, 0.3, peak), strict=True)):
            covered[k] += part.low <= truth <= part.high
    assert (covered / 300 >= 0.90).all()
    assert (covered / 300 <= 0.99).all()


def test_a_curve_that_never_turns_has_its_peak_at_infinity():
    for form in FORMS:
        fit = fit_overoptimisation(KL, np.tile(KL, (3, 1)), form, rng())
        assert fit.peak.value == fit.peak.high == np.inf


def test_measured_kls_are_averaged_over_prompts_and_no_kl_adds_nothing():
    gain = np.tile(FORMS["rl"](np.sqrt(KL), 1.0, 0.2), (4, 1))
    spread = KL + np.array([[0.1], [-0.1], [0.05], [-0.05]])
    fit = fit_overoptimisation(spread, gain, "rl", rng())
    assert fit.alpha.value == pytest.approx(1.0, abs=1e-9)
    assert fit.alpha.low < fit.alpha.high
    with_base = fit_overoptimisation(np.append(0.0, KL), np.pad(gain, ((0, 0), (1, 0))), "rl", rng())
    assert with_base.alpha.value == pytest.approx(1.0, abs=1e-9)


def test_a_clear_decline_is_found_with_its_size():
    # At half of the last KL gold is 0.8, and it loses 0.6 from there; proxy rises by 1 a point.
    kl = [0.0, 1.0, 2.1, 3.0, 4.0]
    gold = np.array([0.0, 0.6, 0.8, 0.5, 0.2]) + rng(1).normal(0, 1, (100, 1)) + 0.3 * rng(2).normal(size=(100, 5))
    proxy = np.arange(5.0) + rng(3).normal(size=(100, 5))
    result = gold_decline(kl, proxy, gold, rng())
    assert result.declines
    assert (result.since, result.since_kl) == (2, 2.1)
    assert result.gold.low < -0.6 < result.gold.high
    assert result.proxy.low < 2.0 < result.proxy.high
    assert result.each_gold.tolist() == [result.gold.value]
    # The contrast is that of a paired test, and knows nothing of where gold is greatest.
    change = gold[:, 4] - gold[:, 2]
    assert result.gold.value == pytest.approx(change.mean())
    assert result.gold.high - result.gold.low == pytest.approx(2 * 1.96 * change.std(ddof=1) / 10, rel=0.1)


def test_no_decline_while_gold_rises_or_where_proxy_falls_too():
    noise = 0.3 * rng(1).normal(size=(100, 4))
    rising, falling = np.arange(4.0) + noise, -np.arange(4.0) + noise
    kl = np.arange(4.0)
    assert not gold_decline(kl, rising, rising, rng()).declines
    assert not gold_decline(kl, falling, falling, rng()).declines
    assert gold_decline(kl, rising, falling, rng()).declines


def test_half_way_is_by_kl_and_by_nothing_else():
    assert half_way([0.0, 0.1, 5.0, 10.0]) == 2
    assert half_way([0.0, 4.0, 6.0, 10.0]) == 1  # as near as the next: the earlier
    assert half_way([0.0, 9.0, 2.0, 4.0]) == 2  # a path that went back
    measured = np.array([[0.0, 1.0, 3.0], [0.0, 3.0, 5.0]])
    assert gold_decline(measured, measured, measured, rng()).since_kl == 2.0


def test_a_flat_gold_curve_rarely_raises_the_alarm_but_its_own_peak_would():
    generator = rng(4)
    alarms = naive = 0
    for _ in range(400):
        gold = generator.normal(size=(100, 8))
        proxy = np.arange(8.0) + generator.normal(size=(100, 8))
        alarms += gold_decline(np.arange(8.0), proxy, gold, generator, resamples=300).declines
        fall = gold[:, -1] - gold[:, gold.mean(0).argmax()]
        naive += fall.mean() + 1.96 * fall.std(ddof=1) / np.sqrt(100) < 0
    # About 2.5% of the time, with a standard deviation of 0.8%. An interval that forgets the choice: many times more.
    assert alarms / 400 < 0.05
    assert naive / 400 > 0.07
    assert naive > 2 * alarms


def test_a_fall_is_found_more_often_than_by_allowing_for_every_peak():
    # 19 points, as checkpoints are; gold falls by 0.3 over the second half. Bonferroni over 18 points misses it.
    generator, found, bonferroni = rng(7), 0, 0
    curve = np.concatenate([np.linspace(0, 1, 10), np.linspace(1, 0.7, 10)[1:]])
    for _ in range(200):
        gold = curve + generator.normal(size=(100, 19))
        found += gold_decline(np.arange(19.0), np.arange(19.0) + gold, gold, generator, resamples=300).declines
        fall = gold[:, -1] - gold[:, gold.mean(0).argmax()]
        bonferroni += fall.mean() + 2.99 * fall.std(ddof=1) / np.sqrt(100) < 0
    # Power of one test of 0.3 with a standard error of 0.141: 0.56.
    assert found / 200 == pytest.approx(0.56, abs=0.12)
    assert bonferroni < 0.5 * found


def test_a_peak_beyond_the_largest_fitted_distance_is_not_measured():
    for form, curve in FORMS.items():
        near = fit_overoptimisation(KL, np.tile(curve(np.sqrt(KL), 1.0, 0.5 if form == "rl" else 0.3), (4, 1)), form, rng())
        far = fit_overoptimisation(KL, np.tile(curve(np.sqrt(KL), 1.0, 0.1), (4, 1)), form, rng())
        assert near.largest == far.largest == 3.0
        assert near.peak_is_measured
        assert not far.peak_is_measured


def test_bad_arguments_are_refused():
    gain = np.zeros((3, 2))
    with pytest.raises(ValueError, match="form must be best_of_n or rl, got 'ppo'"):
        fit_overoptimisation([1.0, 2.0], gain, "ppo", rng())
    with pytest.raises(ValueError, match=r"gain must be \[P, K\] and kl \[K\] or \[P, K\], got shapes \(3, 2\) and \(3,\)"):
        fit_overoptimisation([1.0, 2.0, 3.0], gain, "rl", rng())
    with pytest.raises(ValueError, match=r"2 different values above 0, got \[0\.0, 2\.0\]"):
        fit_overoptimisation([0.0, 2.0], gain, "rl", rng())
    with pytest.raises(ValueError, match=r"not negative in the mean, got a smallest mean of -1\.0"):
        fit_overoptimisation([-1.0, 2.0], gain, "rl", rng())
    with pytest.raises(ValueError, match="gain must hold at least 2 prompts"):
        fit_overoptimisation([1.0, 2.0], gain[:1], "rl", rng())
    with pytest.raises(ValueError, match=r"\[P, K\] alike, got shapes \(3, 2\) and \(3, 1\)"):
        gold_decline([1.0, 2.0], gain, gain[:, :1], rng())
    with pytest.raises(ValueError, match="proxy must hold at least 2 prompts"):
        gold_decline([1.0, 2.0], gain[:1], gain[:1], rng())
    with pytest.raises(ValueError, match="gold must be finite"):
        gold_decline([1.0, 2.0], np.zeros((4, 2)), np.full((4, 2), np.nan), rng())
    with pytest.raises(ValueError, match=r"kl must be finite, and \[K\] or \[P, K\]"):
        gold_decline([1.0], gain, gain, rng())
