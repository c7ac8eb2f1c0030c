"""What a study can see and how many prompts it needs, against simulated studies."""

import numpy as np
import pytest

from bon.intervals import minimum_detectable_difference, required_prompts


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_difference_of_the_detectable_size_is_detected_with_the_stated_power():
    # 4,000 studies of 150 prompts with unit deviation; detected when |mean| > 1.96 standard errors.
    # The share detected has a standard deviation of sqrt(.8 * .2 / 4000) = 0.006, the estimated size one of about 6%.
    pilot = rng(1).normal(size=20_000)
    size = minimum_detectable_difference(pilot) * np.sqrt(20_000 / 150)
    studies = rng(2).normal(size, 1.0, size=(4000, 150))
    z = studies.mean(1) / (studies.std(1, ddof=1) / np.sqrt(150))
    assert (np.abs(z) > 1.959964).mean() == pytest.approx(0.8, abs=0.025)


def test_detectable_difference_shrinks_with_the_root_of_the_prompts_and_grows_with_power():
    values = rng(1).normal(size=100)
    four_times = np.tile(values, 4)
    ratio = minimum_detectable_difference(values) / minimum_detectable_difference(four_times)
    assert ratio == pytest.approx(2.0, rel=0.01)
    assert minimum_detectable_difference(values, power=0.95) > minimum_detectable_difference(values, power=0.5)


@pytest.mark.parametrize(("power", "confidence"), [(0.8, 0.95), (0.95, 0.95), (0.5, 0.99)])
def test_required_prompts_are_those_at_which_the_difference_is_just_detectable(power, confidence):
    # With p prompts of the same deviation the detectable difference is that of the pilot times sqrt(P / p).
    pilot = rng(1).normal(0.3, 2.0, size=100)
    prompts = required_prompts(pilot, -0.4, power, confidence)
    detectable = [minimum_detectable_difference(pilot, power, confidence) * np.sqrt(100 / p) for p in (prompts - 1, prompts)]
    assert detectable[0] > 0.4 >= detectable[1]


def test_a_study_of_the_required_size_has_the_stated_power():
    pilot = rng(1).normal(size=50_000)
    prompts = required_prompts(pilot, 0.25)
    studies = rng(2).normal(0.25, 1.0, size=(4000, prompts))
    z = studies.mean(1) / (studies.std(1, ddof=1) / np.sqrt(prompts))
    assert (np.abs(z) > 1.959964).mean() == pytest.approx(0.8, abs=0.025)


def test_a_study_has_at_least_two_prompts():
    assert required_prompts([0.0, 0.1], 100.0) == 2


def test_bad_arguments_are_refused():
    for function in (minimum_detectable_difference, lambda d, **more: required_prompts(d, 0.1, **more)):
        with pytest.raises(ValueError, match="differences must hold at least 2 prompts"):
            function([1.0])
        with pytest.raises(ValueError, match="differences must be finite"):
            function([1.0, np.nan])
        with pytest.raises(ValueError, match=r"differences must be \[P\], got shape \(2, 2\)"):
            function([[1.0, 2.0], [1.0, 2.0]])
        with pytest.raises(ValueError, match=r"power must lie between 0 and 1, got 1\.0"):
            function([1.0, 2.0], power=1.0)
        with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
            function([1.0, 2.0], confidence=95)
    for difference in (0.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="difference must be finite and not 0"):
            required_prompts([1.0, 2.0], difference)
