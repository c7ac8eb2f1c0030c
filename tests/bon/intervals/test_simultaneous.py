"""Simultaneous bands: closed forms of the greatest |t|, and studies whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from bon.intervals import bootstrap_band, greatest_t, seeds_band, seeds_mean, seeds_prediction


@pytest.mark.parametrize("points", [1, 3, 8])
def test_the_greatest_of_independent_normal_estimates_is_that_of_sidak(points):
    expected = stats.norm.ppf((1 + 0.95 ** (1 / points)) / 2)
    assert greatest_t(np.eye(points), np.inf) == pytest.approx(expected, rel=0.015)


def test_estimates_that_move_together_need_no_more_than_one():
    assert greatest_t(np.ones((5, 5)), 4.0) == pytest.approx(stats.t.ppf(0.975, 4), rel=0.03)
    half = np.full((5, 5), 0.5) + 0.5 * np.eye(5)
    alone, together = greatest_t(np.ones((5, 5)), 4.0), greatest_t(np.eye(5), 4.0)
    assert alone < greatest_t(half, 4.0) < together < stats.t.ppf(1 - 0.05 / 10, 4)


def test_equal_input_gives_equal_output():
    assert greatest_t(np.eye(3), 7.0) == greatest_t(np.eye(3), 7.0)


def test_pointwise_intervals_of_a_band_are_those_of_seeds_mean():
    values = np.random.default_rng(1).normal(size=(4, 30, 3))
    band, mean = seeds_band(values), seeds_mean(values)
    for ours, theirs in zip(band.pointwise, mean, strict=True):
        np.testing.assert_allclose(ours, theirs)
    assert (band.band_low <= band.low).all()
    assert (band.band_high >= band.high).all()
    single = seeds_band(values[..., :1])
    assert single.band_high[0] == pytest.approx(single.high[0])


def test_a_band_over_seeds_holds_at_all_points_in_95_of_100_studies_and_intervals_do_not():
    # 300 studies of 4 seeds that spread as much as prompts do, 5 points: the share has a standard deviation of 0.013.
    rng, whole, pointwise = np.random.default_rng(2), 0, 0
    for _ in range(300):
        values = rng.normal(size=(4, 1, 5)) + rng.normal(size=(40, 5)) + 0.3 * rng.normal(size=(4, 40, 5))
        band = seeds_band(values)
        whole += ((band.band_low <= 0) & (band.band_high >= 0)).all()
        pointwise += ((band.low <= 0) & (band.high >= 0)).all()
    assert 0.91 <= whole / 300 <= 0.99
    assert pointwise / 300 < 0.87


def test_a_bootstrap_band_holds_at_all_points_in_95_of_100_studies():
    rng, whole = np.random.default_rng(3), 0
    for _ in range(300):
        values = rng.normal(size=(80, 1)) * 0.5 + rng.normal(size=(80, 5))
        samples = np.stack([values[rng.integers(80, size=80)].mean(0) for _ in range(300)])
        band = bootstrap_band(values.mean(0), samples)
        whole += ((band.band_low <= 0) & (band.band_high >= 0)).all()
    assert 0.90 <= whole / 300 <= 0.98


def test_a_prediction_interval_is_the_classical_one_where_prompts_do_not_scatter():
    seeds = np.array([1.0, 2.0, 4.0])
    found = seeds_prediction(np.tile(seeds[:, None], (1, 6)))
    reach = stats.t.ppf(0.975, 2) * seeds.std(ddof=1) * np.sqrt(1 + 1 / 3)
    assert found.value == pytest.approx(seeds.mean())
    assert found.high - found.value == pytest.approx(reach)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: greatest_t(np.ones((2, 3)), 3.0), r"correlation must be \[M, M\] with ones"),
        (lambda: greatest_t(2 * np.eye(2), 3.0), r"correlation must be \[M, M\] with ones"),
        (lambda: greatest_t(np.eye(2), 0.0), "freedom must be above 0"),
        (lambda: seeds_band(np.zeros((2, 3))), r"values must be \[seeds, prompts, points\]"),
        (lambda: bootstrap_band(np.zeros(2), np.zeros((4, 3))), r"value must be \[M\] and samples \[R, M\]"),
        (lambda: seeds_prediction(np.zeros((1, 3))), "at least 2 seeds"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
