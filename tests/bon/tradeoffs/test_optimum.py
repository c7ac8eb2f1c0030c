"""The KL-regularized optimum: enumeration, closed forms, what a pool cannot say, and simulated studies of known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bon.estimators.tilted import tilted_pool
from bon.tradeoffs.optimum import (
    OBJECTIVE_STRAIN,
    TILTED_STRAIN,
    kl_regularized_optimum,
    optimum_at,
    optimum_exact,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def normal_pool(generator, prompts=128, candidates=256, spread=(0.6, 1.4)):
    """Scores whose level and spread vary between prompts; the mean of the squared spread is E s^2."""
    level, width = generator.normal(0, 0.5, (prompts, 1)), generator.uniform(*spread, (prompts, 1))
    return level + width * generator.normal(size=(prompts, candidates))


MEAN_SQUARE = 1 + 0.8**2 / 12


def test_exact_optimum_maximizes_reward_less_beta_kl():
    probs, scores, beta = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, -1.0]), 0.7
    exact = optimum_exact(probs, scores, beta)
    others = rng().dirichlet(np.ones(3), 20_000)
    objective = others @ scores - beta * np.sum(others * np.log(others / probs), axis=1) - probs @ scores
    assert objective.max() <= exact.objective[0]
    assert objective.max() == pytest.approx(exact.objective[0], abs=1e-3)
    assert exact.kl[0] == pytest.approx(np.sum(exact.policy[0] * np.log(exact.policy[0] / probs)))
    assert exact.objective[0] == pytest.approx(exact.reward[0] - beta * exact.kl[0] - probs @ scores)


def test_exact_optimum_leaves_out_what_the_reference_never_says_and_ends_at_its_best():
    exact = optimum_exact([0.75, 0.25, 0.0], [0.0, 1.0, 1e6], [1e-4, 1e4])
    np.testing.assert_allclose(exact.policy, [[0, 1, 0], [0.75, 0.25, 0]], atol=1e-4)
    np.testing.assert_allclose(exact.kl, [np.log(4), 0], atol=1e-6)
    np.testing.assert_allclose(exact.reward, [1, 0.25], atol=1e-4)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.floats(0.05, 20), st.floats(1.01, 3))
@settings(max_examples=50, deadline=None)
def test_a_lower_beta_buys_more_reward_at_more_kl(shares, beta, factor):
    probs = np.array(shares) / np.sum(shares)
    low, high = optimum_exact(probs, np.cos(7 * np.arange(len(probs))), [beta, factor * beta]).kl
    assert low >= high - 1e-12
    gains = optimum_exact(probs, np.cos(7 * np.arange(len(probs))), [beta, factor * beta]).objective
    assert gains[0] >= gains[1] - 1e-12 >= -1e-9


@pytest.mark.parametrize(
    ("probs", "scores", "betas", "message"),
    [
        ([0.5, 0.4], [0.0, 1.0], 1.0, "probs must be at least 0 and sum to 1, got a sum of 0.9"),
        ([1.5, -0.5], [0.0, 1.0], 1.0, "probs must be at least 0"),
        ([0.5, 0.5], [0.0], 1.0, r"probs and scores must be \[K\] and finite"),
        ([0.5, 0.5], [0.0, np.nan], 1.0, "finite"),
        ([0.5, 0.5], [0.0, 1.0], -1.0, "betas must be"),
    ],
)
def test_exact_optimum_names_bad_input(probs, scores, betas, message):
    with pytest.raises(ValueError, match=message):
        optimum_exact(probs, scores, betas)


def test_means_are_those_of_the_corrected_estimates_with_intervals_around_them():
    scores = normal_pool(rng(1), 40, 100)
    gold = scores + rng(2).normal(size=scores.shape)
    optimum = kl_regularized_optimum(scores, [1.0, 3.0], {"gold": gold})
    assert optimum.num_candidates == 100
    for part in (optimum.objective, optimum.kl, optimum.reward, optimum.values["gold"]):
        assert part.raw.shape == part.bias.shape == (40, 2)
        assert part.reliable.all()
        np.testing.assert_allclose(part.mean.value, part.corrected.mean(0))
        assert (part.mean.low < part.mean.value).all()
        assert (part.mean.value < part.mean.high).all()


def test_what_the_pool_cannot_say_is_marked_and_still_bounded_from_below():
    scores = normal_pool(rng(4), 60, 32)
    betas = np.array([8.0, 2.0, 0.3, 0.05])
    optimum = kl_regularized_optimum(scores, betas)
    np.testing.assert_array_equal(optimum.objective.reliable, [True, True, False, False])
    np.testing.assert_array_equal(optimum.objective.reliable, optimum.strain <= OBJECTIVE_STRAIN)
    np.testing.assert_array_equal(optimum.kl.reliable, optimum.strain <= TILTED_STRAIN)
    for part in (optimum.objective, optimum.kl, optimum.reward):
        for end in part.mean:
            np.testing.assert_array_equal(np.isnan(end), ~part.reliable)
        assert np.isfinite(part.corrected).all()
    truth = MEAN_SQUARE / (2 * betas)
    assert (optimum.lower_bound.value >= optimum.objective.raw.mean(0) - 1e-12).all()
    assert (optimum.lower_bound.low < truth).all()
    # Best-of-32 for certain gains its mean maximum less beta (log 32 - 31/32).
    best = scores.max(1).mean() - scores.mean() - 0.05 * (np.log(32) - 31 / 32)
    assert optimum.lower_bound.value[3] == pytest.approx(best)


def test_few_candidates_do_not_make_a_great_beta_unreliable():
    optimum = kl_regularized_optimum(normal_pool(rng(6), 200, 8), [20.0])
    assert optimum.objective.reliable.all()
    assert optimum.objective.mean.value[0] == pytest.approx(MEAN_SQUARE / 40, rel=0.1)


@pytest.mark.parametrize("kind", ["normal", "left", "right"])
def test_where_it_counts_as_reliable_the_corrected_objective_is_within_three_percent(kind):
    # The simulation that the limit on the strain rests on, small: prompts of unequal spread, the truth of these very prompts.
    generator = rng(8)
    width = generator.uniform(0.5, 1.5, (4000, 1))
    sign, shape = {"normal": (0, 0.0), "left": (-1, 4.0), "right": (1, 16.0)}[kind]
    if sign:
        root = np.sqrt(shape)
        unit = sign * (generator.gamma(shape, 1 / root, (4000, 128)) - root)
    else:
        unit = generator.normal(size=(4000, 128))

    def log_moment(x):
        return -shape * np.log1p(-sign * x / root) - sign * root * x if sign else x**2 / 2

    betas = np.array([4.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6])
    optimum = kl_regularized_optimum(width * unit, betas)
    reliable = optimum.objective.reliable
    assert reliable[:3].all()
    truth = np.array([beta * log_moment(width[:, 0] / beta) for beta in betas[reliable]]).T
    error = (optimum.objective.corrected[:, reliable] - truth).std(0) / np.sqrt(4000)
    miss = np.abs(optimum.objective.corrected[:, reliable].mean(0) - truth.mean(0))
    assert (miss < 0.03 * truth.mean(0) + 3 * error).all()
    if kind != "left":
        assert not reliable[-1]


def test_intervals_hold_in_simulated_studies():
    # 300 studies: a true coverage of 95% gives 91% to 99% (3.2 standard errors).
    generator, betas = rng(9), np.array([2.0, 1.3])
    truths = {
        "objective": MEAN_SQUARE / (2 * betas),
        "kl": MEAN_SQUARE / (2 * betas**2),
        "reward": MEAN_SQUARE / betas,
    }
    held = {name: np.zeros(2) for name in truths}
    for _ in range(300):
        optimum = kl_regularized_optimum(normal_pool(generator, 64, 128), betas)
        for name, truth in truths.items():
            mean = getattr(optimum, name).mean
            held[name] += (mean.low <= truth) & (truth <= mean.high)
    for name, count in held.items():
        assert (count >= 0.91 * 300).all(), (name, count)
        assert (count <= 0.99 * 300).all(), (name, count)


def test_most_reward_at_a_kl_is_the_closed_form_of_normal_scores():
    # KL = s^2 / (2 beta^2) and reward s^2 / beta: the mean reward at a mean KL is sqrt(2 KL E s^2).
    scores = normal_pool(rng(10), 1500, 256)
    kls = np.array([0.0, 0.1, 0.4])
    found = optimum_at(scores, kls)
    truth = np.sqrt(2 * kls * MEAN_SQUARE)
    assert np.isinf(found.betas[0])
    np.testing.assert_allclose(found.betas[1:], np.sqrt(MEAN_SQUARE / (2 * kls[1:])), rtol=0.03)
    np.testing.assert_allclose(found.reward.value[0], scores.mean())
    np.testing.assert_allclose(found.reward.value - scores.mean(), truth, rtol=0.03, atol=1e-12)
    np.testing.assert_allclose(found.reward.value, found.influence.mean(0))
    half = (found.reward.high - found.reward.low) / 2
    np.testing.assert_allclose(half, 1.96 * found.influence.std(0) / np.sqrt(1500), rtol=0.01)


def test_a_solved_beta_gives_back_its_kl_and_the_reward_there():
    scores = normal_pool(rng(12), 50, 128)
    gold = scores + rng(13).normal(size=scores.shape)
    found = optimum_at(scores, 0.3, {"gold": gold})
    pool = tilted_pool(scores, found.betas, {"gold": gold})
    assert pool.kl.corrected.mean() == pytest.approx(0.3)
    np.testing.assert_allclose(found.reward.value, pool.reward.corrected.mean(0))
    np.testing.assert_allclose(found.values["gold"].value, pool.values["gold"].corrected.mean(0))


def test_influence_tells_how_leaving_out_a_prompt_moves_the_reward_at_a_kl():
    # The jackknife with the beta solved anew for every set of prompts.
    scores = normal_pool(rng(15), 20, 200)
    found = optimum_at(scores, 0.2)
    for p in range(3):
        without = optimum_at(np.delete(scores, p, axis=0), 0.2).reward.value[0]
        linear = found.reward.value[0] - (found.influence[p, 0] - found.reward.value[0]) / 19
        assert without == pytest.approx(linear, abs=2e-3)
        assert abs(without - found.reward.value[0]) > 4e-3 or abs(linear - found.reward.value[0]) < 6e-3


def test_beyond_what_the_pool_can_say_there_is_no_number():
    found = optimum_at(normal_pool(rng(18), 30, 64), [0.05, 1.5, 10.0])
    for part in (found.betas, *found.reward, found.influence[0]):
        np.testing.assert_array_equal(np.isnan(part), [False, True, True])


def test_rewards_that_do_not_vary_buy_nothing():
    found = optimum_at(np.ones((3, 4)), [0.0, 0.5])
    np.testing.assert_array_equal(found.reward.value, [1.0, np.nan])
    optimum = kl_regularized_optimum(np.ones((3, 4)), 1.0)
    np.testing.assert_allclose(optimum.objective.mean.value, 0, atol=1e-15)


def test_rare_great_responses_are_found_from_a_beta_that_is_high_enough():
    # KL falls slower than spread^2 / (2 beta^2) here, so the search has to go up first.
    scores = rng(20).normal(0, 0.1, (400, 256)) + 30 * (rng(21).random((400, 256)) < 0.2)
    found = optimum_at(scores, 1.0)
    assert tilted_pool(scores, found.betas).kl.corrected.mean() == pytest.approx(1.0)


@pytest.mark.parametrize("kl", [-0.1, np.nan, [[0.1]], []])
def test_a_kl_that_cannot_be_is_refused(kl):
    with pytest.raises(ValueError, match="kl must be"):
        optimum_at(normal_pool(rng(), 4, 8), kl)


def test_one_prompt_has_no_interval():
    with pytest.raises(ValueError, match="at least 2 prompts"):
        kl_regularized_optimum([[0.0, 1.0]], 1.0)
