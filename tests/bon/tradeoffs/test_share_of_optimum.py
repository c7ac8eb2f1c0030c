"""Share of the optimum: identities, best-of-n by hand, bounds, and coverage in simulated studies."""

import numpy as np
import pytest

from bon.estimators.tilted import tilted_pool
from bon.tradeoffs.best_of_n_objective import best_of_n_objective
from bon.tradeoffs.optimum import kl_regularized_optimum
from bon.tradeoffs.share_of_optimum import best_of_n_share, objective_gained, share_of_optimum


def rng(seed=0):
    return np.random.default_rng(seed)


def pool(seed, prompts=60, candidates=64):
    generator = rng(seed)
    return generator.normal(size=(prompts, 1)) + generator.uniform(0.6, 1.4, (prompts, 1)) * generator.normal(
        size=(prompts, candidates)
    )


def test_objective_gained_of_prompts_and_of_seeds():
    np.testing.assert_allclose(objective_gained([2.0, 3.0], [1.0, 2.0], [0.5, 1.0], 0.25), [1.25, 1.5])
    by_seed = objective_gained([[2.0, 3.0], [1.0, 1.0]], [[1.0, 2.0], [0.0, 4.0]], [0.5, 1.0], 0.25)
    np.testing.assert_allclose(by_seed, [[1.25, 1.5], [0.5, -1.0]])
    np.testing.assert_allclose(objective_gained([[2.0, 3.0]], [1.0, 2.0], [0.5, 1.0], 0.25), [[1.25, 1.5]])


@pytest.mark.parametrize(
    ("reward", "kl", "reference", "beta", "message"),
    [
        ([1.0, 2.0], [1.0], [0.0, 0.0], 1.0, r"got shapes \(2,\), \(1,\) and \(2,\)"),
        ([1.0, 2.0], [1.0, 1.0], [0.0], 1.0, "reference_reward"),
        (1.0, 1.0, 0.0, 1.0, r"reward must be \[P\]"),
        ([1.0], [1.0], [0.0], 0.0, "positive"),
        ([1.0], [1.0], [0.0], [1.0, 2.0], "beta must be one number"),
    ],
)
def test_objective_gained_names_bad_input(reward, kl, reference, beta, message):
    with pytest.raises(ValueError, match=message):
        objective_gained(reward, kl, reference, beta)


def test_the_optimum_itself_has_a_share_of_1_and_half_of_it_one_half():
    scores = pool(1, candidates=256)
    optimum = tilted_pool(scores, 1.0).objective.corrected[:, 0]
    for factor in (1.0, 0.5, -0.3):
        share = share_of_optimum(factor * optimum, scores, 1.0)
        np.testing.assert_allclose(share.share, factor)
        assert share.bound is None
        assert share.gained == pytest.approx(factor * share.optimum)


def test_interval_of_the_ratio_is_paired():
    # The method's part in a prompt's optimum is fixed, and all that varies between prompts is in both.
    scores, noise = pool(2, candidates=256), rng(3).normal(0, 0.02, 60)
    optimum = tilted_pool(scores, 1.0).objective.corrected[:, 0]
    paired = share_of_optimum(0.5 * optimum + noise, scores, 1.0).share
    shuffled = share_of_optimum(0.5 * rng(4).permutation(optimum) + noise, scores, 1.0).share
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_training_seeds_widen_the_interval_and_one_seed_is_as_none():
    scores = pool(5, candidates=256)
    gained = 0.5 * tilted_pool(scores, 1.0).objective.corrected[:, 0]
    np.testing.assert_allclose(share_of_optimum(gained[None], scores, 1.0).share, share_of_optimum(gained, scores, 1.0).share)
    apart = gained + np.array([-0.1, 0.0, 0.1])[:, None]
    alike = np.stack([gained] * 3)
    wide, narrow = share_of_optimum(apart, scores, 1.0).share, share_of_optimum(alike, scores, 1.0).share
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("gained", "bound"), [(1.0, "upper"), (-1.0, "lower")])
def test_where_the_pool_is_too_small_the_share_is_a_bound_and_says_so(gained, bound):
    scores = pool(6, candidates=16)
    share = share_of_optimum(np.full(60, gained), scores, 0.2)
    assert share.bound == bound
    lower = kl_regularized_optimum(scores, 0.2).lower_bound.value[0]
    assert share.optimum == pytest.approx(lower)
    assert share.share.value == pytest.approx(gained / lower)
    many = share_of_optimum(np.full(60, gained), pool(6, candidates=1024), 0.2)
    assert abs(many.share.value) < abs(share.share.value)  # more candidates, a tighter bound


@pytest.mark.parametrize(
    ("gained", "scores", "message"),
    [
        ([1.0], [[0.0, 1.0], [0.0, 2.0]], "on the 2 prompts of scores"),
        ([1.0, np.nan], [[0.0, 1.0], [0.0, 2.0]], "finite"),
        ([1.0, 1.0], [[1.0, 1.0], [2.0, 2.0]], "do not vary within prompts"),
        ([1.0], [[0.0, 1.0]], "at least 2 prompts"),
    ],
)
def test_bad_input_of_a_share_is_named(gained, scores, message):
    with pytest.raises(ValueError, match=message):
        share_of_optimum(gained, scores, 1.0)


def test_the_best_n_is_the_best_of_all_n_by_hand():
    scores = np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 3.0]])
    # Means over subsets: n = 1: 1, 1; n = 2: 5/3, 2; n = 3: 2, 3. Gains in the mean: 0, 5/6, 3/2.
    kl = np.log([1, 2, 3]) - [0, 1 / 2, 2 / 3]
    for beta in (0.5, 2.0, 3.0, 4.2, 10.0):
        objectives = np.array([0, 5 / 6, 3 / 2]) - beta * kl
        n, gained = best_of_n_objective(scores, beta)
        assert n[0] == objectives.argmax() + 1
        assert gained.mean() == pytest.approx(objectives.max())
    np.testing.assert_allclose(best_of_n_objective(scores, 0.5, kl)[1], best_of_n_objective(scores, 0.5)[1])
    free, gained = best_of_n_objective(scores, 10.0, np.zeros((2, 3)))
    assert free[0] == 3
    np.testing.assert_allclose(gained[:, 0], [1, 2])


def test_best_of_n_never_reaches_the_optimum_and_does_best_at_one_beta():
    scores = pool(7, 300, 256)
    found = best_of_n_share(scores, [0.1, 1.0, 1.5, 2.0, 4.0, 50.0])
    known = ~found.upper_bound
    np.testing.assert_array_equal(known, [False, True, True, True, True, True])
    assert (found.share.value[known] < 1).all()
    assert found.best_beta == found.betas[known][np.argmax(found.share.value[known])]
    assert found.at_limit.tolist() == [True, False, False, False, False, False]
    assert found.n[-1] == 1
    np.testing.assert_allclose([found.share.value[-1], found.gained.value[-1]], 0, atol=1e-12)
    assert (np.diff(found.n) <= 0).all()
    for part in (found.share, found.gained):
        assert (part.low <= part.value).all()
        assert (part.value <= part.high).all()
    # Where the pool is too small, best-of-n is what the optimum gains at least.
    np.testing.assert_allclose(found.share.value[0], 1)


def test_with_no_reliable_beta_there_is_no_best_one():
    assert np.isnan(best_of_n_share(pool(8, candidates=4), 0.01).best_beta)


@pytest.mark.parametrize("kl", [np.zeros(3), np.full(64, np.nan)])
def test_bad_kl_of_best_of_n_is_named(kl):
    with pytest.raises(ValueError, match="kl must be finite, and"):
        best_of_n_share(pool(9), 1.0, kl)


@pytest.mark.parametrize("seeds", [1, 5])
def test_intervals_of_the_share_hold_in_simulated_studies(seeds):
    # A method that gains 0.6 of the expected optimum, differently on every prompt and in every training.
    generator, held = rng(10), 0
    for _ in range(250):
        width = generator.uniform(0.6, 1.4, (64, 1))
        scores = width * generator.normal(size=(64, 128))
        gained = 0.6 * width[:, 0] ** 2 / 2 + 0.15 * generator.normal(size=64)
        gained = gained + (
            0.1 * generator.normal(size=(seeds, 1)) + 0.1 * generator.normal(size=(seeds, 64)) if seeds > 1 else 0
        )
        low, high = share_of_optimum(gained, scores, 1.0).share[1:]
        held += int(low <= 0.6 <= high)
    assert 0.90 * 250 <= held <= 0.99 * 250, held
