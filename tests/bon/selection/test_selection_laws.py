"""Selection rules against closed forms on finite distributions: the law of what is returned, over all pools."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from bon.estimators.thresholds import excess_threshold
from bon.selection import BestOfN, BestOfPoisson, ChiSquaredBestOfN, InferenceTimePessimism, SoftBestOfN

OUTCOMES = np.array([-1.0, 0.5, 2.0])
SHARES = np.array([0.5, 0.3, 0.2])


@pytest.fixture
def law(make_pool):
    """law(rule, N) -> probability that each outcome is returned, summed over all pools of N draws."""

    def law(rule, count, outcomes=OUTCOMES, shares=SHARES):
        drawn = np.array(list(itertools.product(range(len(outcomes)), repeat=count)))
        chosen = rule.probabilities(make_pool(outcomes[drawn]))
        weights = shares[drawn].prod(axis=1)
        return np.array([(weights[:, None] * chosen * (drawn == k)).sum() for k in range(len(outcomes))])

    return law


def two_outcomes(rule, count, share, make_pool):
    """Probability that the outcome 1 (of 0 and 1) is returned from `count` draws, by the number of ones among them."""
    ones = np.arange(count + 1)
    pool = make_pool((np.arange(count) < ones[:, None]).astype(float))
    return float(stats.binom.pmf(ones, count, share) @ rule.mean(pool))


def test_hard_best_of_n_has_the_law_of_the_maximum(law):
    below = np.cumsum(SHARES)
    for n in (1, 2, 4, 6):
        np.testing.assert_allclose(law(BestOfN(), n), np.diff(below**n, prepend=0.0), atol=1e-12)


def test_soft_best_of_n_of_two_outcomes_by_hand(make_pool):
    # j ones among 5: probability j e / (j e + 5 - j) at temperature 1.
    expected = sum(math.comb(5, j) * 0.3**j * 0.7 ** (5 - j) * j * math.e / (j * math.e + 5 - j) for j in range(6))
    assert two_outcomes(SoftBestOfN(1.0), 5, 0.3, make_pool) == pytest.approx(expected, abs=1e-12)


def test_soft_best_of_n_comes_to_the_tilted_policy_at_the_rate_of_one_over_n(make_pool):
    share, temperature = 0.3, 0.5
    tilted = share * math.exp(1 / temperature) / (share * math.exp(1 / temperature) + 1 - share)

    def distance(n):
        good = two_outcomes(SoftBestOfN(temperature), n, share, make_pool)
        return tilted * math.log(tilted / good) + (1 - tilted) * math.log((1 - tilted) / (1 - good))

    # The theorem bounds KL by a constant over n; where the support is finite it falls with the square.
    distances = [distance(n) for n in (8, 32, 128)]
    assert distances[0] > 4 * distances[1] > 16 * distances[2] > 0


@pytest.mark.parametrize("mu", [0.0, 0.4, 3.0])
def test_best_of_poisson_is_the_mixture_of_hard_laws(law, mu):
    below, count = np.cumsum(SHARES), 5
    sizes = np.arange(1, count + 1)
    shares = stats.poisson.pmf(sizes - 1, mu)
    shares[-1] = stats.poisson.sf(count - 2, mu)  # n above the pool takes the whole pool
    cdf = (shares * below[:, None] ** sizes).sum(axis=1)
    np.testing.assert_allclose(law(BestOfPoisson(mu), count), np.diff(cdf, prepend=0.0), atol=1e-12)


def test_best_of_poisson_from_a_large_pool_has_the_papers_distribution(make_pool):
    # Integrating the density (mu x + 1) exp(mu (x - 1)) to x gives x exp(mu (x - 1)).
    mu, share = 3.0, 0.2
    returned = two_outcomes(BestOfPoisson(mu), 40, share, make_pool)
    assert 1 - returned == pytest.approx(0.8 * math.exp(mu * (0.8 - 1)), abs=1e-12)


@pytest.mark.parametrize("mu", [1.0, 7.0, 60.0])
def test_best_of_poisson_nearly_attains_the_optimal_trade_of_rank_for_kl_as_documented(mu):
    def density(x):
        return (mu * x + 1) * np.exp(mu * (x - 1))

    mean = integrate.quad(lambda x: x * density(x), 0, 1)[0]
    spent = integrate.quad(lambda x: density(x) * np.log(density(x)), 0, 1, epsabs=1e-12)[0]

    def tilted_mean(t):
        return 1 / -np.expm1(-t) - 1 / t

    tilt = optimize.brentq(lambda t: tilted_mean(t) - mean, 1e-3, 500)
    least = tilt * mean - np.log(np.expm1(tilt) / tilt)
    assert 0 <= spent - least < 1e-3


@pytest.mark.parametrize("coefficient", [0.1, 0.25, 0.3, 2.0, 50.0])
def test_chi_squared_of_two_outcomes_by_hand(make_pool, coefficient):
    # A share p of ones: all on them up to a coefficient of p, then p + p (1 - p) / coefficient.
    share = 0.25
    pool = make_pool([[1.0, 0.0, 0.0, 0.0]])
    expected = 1.0 if coefficient <= share else share + share * (1 - share) / coefficient
    assert ChiSquaredBestOfN(coefficient).mean(pool)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("coefficient", [0.05, 0.7, 4.0])
def test_chi_squared_attains_the_maximum_of_its_objective(make_pool, coefficient):
    scores = np.array([0.3, -1.2, 2.0, 0.9, 0.1])

    def loss(p):
        return -(p @ scores - coefficient * ((5 * p - 1) ** 2).mean() / 2)

    found = optimize.minimize(
        loss,
        np.full(5, 0.2),
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    ours = ChiSquaredBestOfN(coefficient).probabilities(make_pool(scores[None]))[0]
    np.testing.assert_allclose(ours, found.x, atol=1e-5)
    assert loss(ours) <= loss(found.x) + 1e-9


@pytest.mark.parametrize(("coefficient", "max_reward"), [(0.5, None), (0.9, 1.0), (2.0, 3.0)])
def test_inference_time_pessimism_accepts_like_independent_trials(make_pool, coefficient, max_reward):
    # The first set is fixed (1, 0, 0), the second set of three and the last candidate are drawn with a share p of ones.
    share, draws = 0.4, np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    pool = make_pool(np.hstack([np.tile([1.0, 0.0, 0.0], (16, 1)), draws]))
    weights = np.where(draws == 1, share, 1 - share).prod(axis=1)
    returned = weights @ InferenceTimePessimism(coefficient, max_reward).mean(pool)
    threshold = optimize.brentq(lambda t: (max(1 - t, 0) + 2 * max(-t, 0)) / 3 - coefficient, -9, 1)
    bound = (1.0 if max_reward is None else max_reward) - threshold
    accept_one, accept_zero = max(1 - threshold, 0) / bound, max(-threshold, 0) / bound
    accept = share * accept_one + (1 - share) * accept_zero
    expected = (1 - (1 - accept) ** 3) * share * accept_one / accept + (1 - accept) ** 3 * share
    assert returned == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("second", [[0.7, 0.1, -0.3, 1.2], [0.2, 2.2, 0.9, 0.0]], ids=["none sure", "above all of the first"])
def test_inference_time_pessimism_is_its_own_algorithm_run_step_by_step(make_pool, second):
    scores = np.array([0.4, 1.5, 0.0, 0.9, *second, 99.0])  # m = 4: two sets of four and the last
    rng, runs = np.random.default_rng(0), 20_000
    threshold = float(excess_threshold(scores[:4], 0.8)[0])
    counts = np.zeros(9)
    for _ in range(runs):
        for i in range(4, 8):
            weight, bound = max(scores[i] - threshold, 0) / 0.8, (1.5 - threshold) / 0.8
            if rng.random() < min(weight / bound, 1):
                break
        else:
            i = 8
        counts[i] += 1
    expected = InferenceTimePessimism(0.8).probabilities(make_pool(scores[None]))[0]
    assert expected[:4].sum() == counts[:4].sum() == 0
    seen = expected > 0
    assert stats.chisquare(counts[seen], runs * expected[seen]).pvalue > 1e-3


def test_with_many_candidates_pessimism_by_rejection_is_pessimism_on_the_pool(make_pool):
    scores = np.random.default_rng(1).normal(size=(200, 401))
    pool = make_pool(scores)
    rejected, exact = InferenceTimePessimism(0.7).mean(pool), ChiSquaredBestOfN(0.7).mean(pool)
    error = (rejected - exact).std() / np.sqrt(200)
    assert rejected.mean() == pytest.approx(exact.mean(), abs=4 * error)
    assert error < 0.05


def test_pessimism_does_not_follow_a_single_wrong_score_as_soft_best_of_n_does(make_pool):
    # 63 honest scores and one that is 10 too high.
    pool = make_pool(np.append(np.linspace(-1, 1, 63), 10.0)[None])
    at_equal_tilt = ChiSquaredBestOfN(1.0).probabilities(pool)[0, -1], SoftBestOfN(1.0).probabilities(pool)[0, -1]
    assert at_equal_tilt[0] < 0.2
    assert at_equal_tilt[1] > 0.99


@pytest.mark.parametrize("excess", [1e-6, 0.1, 0.5, 3.0, 1e6])
def test_the_threshold_solves_its_equation(excess):
    scores = np.random.default_rng(2).normal(size=(20, 33)) * np.logspace(-3, 3, 20)[:, None]
    scores[0] = scores[1, 0]  # all the same
    found = excess_threshold(scores, excess)
    np.testing.assert_allclose(np.maximum(scores - found[:, None], 0).mean(axis=1), excess, rtol=1e-6)


@pytest.mark.parametrize(
    ("scores", "excess", "message"),
    [
        ([[1.0, 2.0]], 0.0, "finite and > 0, got 0"),
        ([[1.0, 2.0]], math.nan, "finite and > 0, got nan"),
        ([[1.0, math.inf]], 1.0, r"got inf at \(0, 1\)"),
        (np.zeros((2, 0)), 1.0, r"got shape \(2, 0\)"),
    ],
)
def test_a_threshold_without_meaning_is_refused(scores, excess, message):
    with pytest.raises(ValueError, match=message):
        excess_threshold(scores, excess)
