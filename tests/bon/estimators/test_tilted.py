"""Tilted means against brute-force leave-one-out, enumeration, closed forms and invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bon.estimators.tilted import tilted_pool, tilted_slope
from bon.tradeoffs.optimum import optimum_exact

finite = st.floats(-20, 20).map(lambda x: round(x, 3))
pools = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(2, 7)), elements=finite)
prices = st.floats(0.05, 50)


def plain(row, values, beta):
    """Objective gained, KL, mean reward and mean value of one prompt, by enumeration of the candidates as finite support."""
    exact = optimum_exact(np.full(len(row), 1 / len(row)), row, beta)
    return np.array([exact.objective[0], exact.kl[0], exact.reward[0], exact.policy[0] @ values])


def looped(row, values, beta):
    """The same and its jackknife bias, candidate by candidate."""
    count = len(row)
    full = plain(row, values, beta)
    # The reference's own mean is the pool's mean: it is linear, so the jackknife finds no bias in it.
    without = [plain(np.delete(row, i), np.delete(values, i), beta) for i in range(count)]
    return full, (count - 1) * (np.mean(without, axis=0) - full)


def quantities(pool):
    return [pool.objective, pool.kl, pool.reward, pool.values["gold"]]


@given(pools, prices)
@settings(max_examples=60, deadline=None)
def test_estimates_and_their_bias_are_those_of_a_loop_over_candidates(scores, beta):
    gold = np.cos(3 * scores) + np.arange(scores.shape[1])
    pool = tilted_pool(scores, beta, {"gold": gold})
    for p, (row, values) in enumerate(zip(scores, gold, strict=True)):
        raw, bias = looped(row, values, beta)
        np.testing.assert_allclose([part.raw[p, 0] for part in quantities(pool)], raw, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose([part.bias[p, 0] for part in quantities(pool)], bias, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("gap", [1.0, 40.0, 1e3, 1e6])
def test_leaving_out_a_candidate_that_holds_all_weight_is_exact(gap):
    row = np.array([0.0, 0.3, gap])
    pool = tilted_pool([row], 1.0, {"gold": [[1.0, 2.0, 5.0]]})
    raw, bias = looped(row, np.array([1.0, 2.0, 5.0]), 1.0)
    np.testing.assert_allclose([part.raw[0, 0] for part in quantities(pool)], raw, rtol=1e-9)
    np.testing.assert_allclose([part.bias[0, 0] for part in quantities(pool)], bias, rtol=1e-9)


@given(pools, prices, st.floats(-100, 100), st.floats(0.1, 10))
@settings(max_examples=60, deadline=None)
def test_shift_and_scale_of_the_scores(scores, beta, shift, scale):
    pool, moved = tilted_pool(scores, beta), tilted_pool(scale * scores + shift, scale * beta)
    close = {"rtol": 1e-7, "atol": 1e-7}
    for part, other in ((pool.kl, moved.kl), (pool.objective, moved.objective), (pool.reward, moved.reward)):
        factor = 1.0 if part is pool.kl else scale
        level = shift if part is pool.reward else 0.0
        np.testing.assert_allclose(other.raw, factor * part.raw + level, **close)
        np.testing.assert_allclose(other.bias, factor * part.bias, **close)
    np.testing.assert_allclose(moved.effective_sample_size, pool.effective_sample_size, rtol=1e-7)


@given(pools, prices, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_the_candidates_does_not_matter(scores, beta, random):
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    gold = scores**2
    one = tilted_pool(scores, beta, {"gold": gold})
    other = tilted_pool(scores[:, order], beta, {"gold": gold[:, order]})
    for a, b in zip(quantities(one), quantities(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


@given(pools, prices)
@settings(max_examples=60, deadline=None)
def test_bounds_and_the_identity_of_reward_kl_and_objective(scores, beta):
    pool = tilted_pool(scores, beta)
    count = scores.shape[1]
    assert (pool.objective.raw >= -1e-9).all()
    assert (pool.kl.raw >= -1e-9).all()
    assert (pool.kl.raw <= np.log(count) + 1e-9).all()
    assert (pool.effective_sample_size <= count + 1e-9).all()
    assert (pool.effective_sample_size >= 1 - 1e-9).all()
    # Efron and Stein's sign: leaving out a candidate lowers the log of a mean on average.
    assert (pool.objective.bias <= 1e-8).all()
    for part in ("raw", "bias", "corrected"):
        level = 0.0 if part == "bias" else scores.mean(1)[:, None]
        reward, kl = getattr(pool.reward, part) - level, getattr(pool.kl, part)
        np.testing.assert_allclose(reward - beta * kl, getattr(pool.objective, part), rtol=1e-7, atol=1e-7)


def test_without_a_limit_on_beta_it_is_the_reference_and_at_none_the_maximum():
    scores = np.random.default_rng(0).normal(size=(3, 50))
    gold = np.random.default_rng(1).normal(size=(3, 50))
    wide, narrow = tilted_pool(scores, 1e6, {"gold": gold}), tilted_pool(scores, 1e-6, {"gold": gold})
    np.testing.assert_allclose(wide.reward.corrected[:, 0], scores.mean(1), atol=1e-5)
    np.testing.assert_allclose(wide.values["gold"].corrected[:, 0], gold.mean(1), atol=1e-5)
    np.testing.assert_allclose(wide.kl.raw[:, 0], 0, atol=1e-9)
    np.testing.assert_allclose(wide.effective_sample_size, 50)
    np.testing.assert_allclose(narrow.reward.raw[:, 0], scores.max(1))
    np.testing.assert_allclose(narrow.values["gold"].raw[:, 0], gold[np.arange(3), scores.argmax(1)])
    np.testing.assert_allclose(narrow.kl.raw[:, 0], np.log(50))
    np.testing.assert_allclose(narrow.effective_sample_size, 1)


def test_at_a_great_beta_the_objective_is_half_the_unbiased_variance():
    # beta log E exp(r / beta) - E r = var / (2 beta) + ...: the jackknife turns the plug-in variance into the unbiased one.
    scores = np.random.default_rng(2).normal(size=(4, 30))
    corrected = tilted_pool(scores, 1e3).objective.corrected[:, 0] * 2e3
    np.testing.assert_allclose(corrected, scores.var(1, ddof=1), rtol=5e-3)


@pytest.mark.parametrize("beta", [2.0, 1.0, 0.7])
def test_normal_scores_have_their_closed_form_and_correction_brings_the_estimate_nearer(beta):
    scores = 0.5 + np.random.default_rng(3).normal(size=(4000, 64))
    pool = tilted_pool(scores, beta)
    truths = (1 / (2 * beta), 1 / (2 * beta**2), 0.5 + 1 / beta)
    for part, truth in zip((pool.objective, pool.kl, pool.reward), truths, strict=True):
        error = part.corrected[:, 0].std() / np.sqrt(len(scores))
        assert abs(part.corrected.mean() - truth) < 4 * error + 0.035 * truth
        assert abs(part.corrected.mean() - truth) < abs(part.raw.mean() - truth)


def test_finite_support_from_a_large_pool():
    probs, levels = np.array([0.6, 0.3, 0.1]), np.array([0.0, 1.0, 3.0])
    drawn = np.random.default_rng(4).choice(3, size=(60, 2000), p=probs)
    worth = np.array([5.0, -2.0, 1.0])
    betas = [0.8, 1.5, 5.0]
    exact = optimum_exact(probs, levels, betas)
    pool = tilted_pool(levels[drawn], betas, {"gold": worth[drawn]})
    truths = [exact.objective, exact.kl, exact.reward, exact.policy @ worth]
    for part, truth in zip(quantities(pool), truths, strict=True):
        error = part.corrected.std(0, ddof=1) / np.sqrt(60)
        assert (np.abs(part.corrected.mean(0) - truth) < 4 * error).all()


def test_slope_is_the_change_of_a_column_with_the_kl():
    rng = np.random.default_rng(5)
    scores, gold = rng.normal(size=(6, 40)), rng.normal(size=(6, 40))
    pool = tilted_pool(scores, [0.999, 1.001], {"gold": gold})
    moved = np.diff(pool.values["gold"].raw.mean(0)) / np.diff(pool.kl.raw.mean(0))
    assert tilted_slope(scores, gold, 1.0) == pytest.approx(float(moved[0]), rel=1e-5)
    assert tilted_slope(scores, scores, 1.7) == pytest.approx(1.7)
    assert tilted_slope(np.ones((2, 3)), np.ones((2, 3)), 1.0) == 0


@pytest.mark.parametrize(
    ("scores", "betas", "values", "message"),
    [
        ([[0.0, np.nan]], 1.0, None, r"scores must be finite, got nan at \(0, 1\)"),
        ([0.0, 1.0], 1.0, None, r"scores must be \[prompts, candidates\]"),
        ([[0.0]], 1.0, None, "at least 2 candidates per prompt"),
        ([[0.0, 1.0]], 0.0, None, r"betas must be \[B\], each positive and finite, got \[0.0\]"),
        ([[0.0, 1.0]], [1.0, np.inf], None, "betas must be"),
        ([[0.0, 1.0]], [[1.0]], None, "betas must be"),
        ([[0.0, 1.0]], [], None, "betas must be"),
        ([[0.0, 1.0]], 1.0, {"gold": [[0.0]]}, r"values\['gold'\]: values must have the shape of scores"),
        ([[0.0, 1.0]], 1.0, {"gold": [[0.0, np.inf]]}, r"values\['gold'\]: values must be finite"),
    ],
)
def test_bad_input_is_named(scores, betas, values, message):
    with pytest.raises(ValueError, match=message):
        tilted_pool(scores, betas, values)
