"""KL of soft best-of-n and Best-of-Poisson against enumeration of all draws, closed forms and limits."""

from itertools import product
from math import exp, factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expi

from bon.kl import best_of_n_kl_bound, best_of_n_kl_exact
from bon.kl.soft import (
    best_of_poisson_kl_bound,
    best_of_poisson_kl_exact,
    best_of_poisson_kl_levels,
    soft_best_of_n_kl_bound,
    soft_best_of_n_kl_exact,
    soft_best_of_n_kl_levels,
)

POLICIES = {
    "three": ([0.2, 0.5, 0.3], [1.0, 0.0, 2.0]),
    "tied": ([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 2.0, 1.0]),
    "far apart": ([0.7, 0.2, 0.1], [0.0, 30.0, 31.0]),
    "all tied": ([0.1, 0.9], [5.0, 5.0]),
    "six": ([0.3, 0.05, 0.1, 0.15, 0.2, 0.2], [0.0, 3.0, 1.0, 3.0, -2.0, 1.0]),
}


def kl_of(law, probs):
    assert law.sum() == pytest.approx(1.0)
    inside = law > 0
    return float(np.sum(law[inside] * np.log(law[inside] / np.asarray(probs)[inside])))


def soft_by_enumeration(probs, scores, n, temperature):
    """Draw n outcomes in all K^n ways, return one with probability proportional to exp(score / T)."""
    law = np.zeros(len(probs))
    for draws in product(range(len(probs)), repeat=n):
        weights = np.exp((np.asarray(scores)[list(draws)] - max(scores)) / temperature)
        np.add.at(law, list(draws), np.prod([probs[j] for j in draws]) * weights / weights.sum())
    return kl_of(law, probs)


def best_law(probs, scores, n):
    """Law of best-of-n by enumeration, ties uniformly among the draws."""
    law = np.zeros(len(probs))
    for draws in product(range(len(probs)), repeat=n):
        tied = [i for i in draws if scores[i] == max(scores[j] for j in draws)]
        np.add.at(law, tied, np.prod([probs[j] for j in draws]) / len(tied))
    return law


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 7.0])
def test_soft_kl_is_that_of_n_fold_enumeration(name, n, temperature):
    probs, scores = POLICIES[name]
    expected = soft_by_enumeration(probs, scores, n, temperature)
    assert soft_best_of_n_kl_exact(probs, scores, n, temperature) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("n", [2, 5, 300, 100_000])
def test_soft_kl_is_hard_at_low_temperature_and_nothing_at_high(name, n):
    probs, scores = POLICIES[name]
    assert soft_best_of_n_kl_exact(probs, scores, n, 1e-3) == pytest.approx(best_of_n_kl_exact(probs, scores, n), abs=1e-9)
    assert soft_best_of_n_kl_exact(probs, scores, n, 1e9) == pytest.approx(0.0, abs=n * 1e-15)


@pytest.mark.parametrize("name", ["three", "tied", "six"])
def test_soft_kl_of_many_draws_is_that_of_the_tilted_policy(name):
    # Verdun et al. 2025: it converges to p exp(score / T) / Z at rate 1 / n.
    probs, scores = (np.array(part) for part in POLICIES[name])
    tilted = probs * np.exp(scores / 2.0)
    expected = kl_of(tilted / tilted.sum(), probs)
    errors = [abs(soft_best_of_n_kl_exact(probs, scores, n, 2.0) - expected) for n in (1000, 10_000)]
    assert errors[0] < 0.003
    assert errors[0] / errors[1] == pytest.approx(10.0, rel=0.05)


policies = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(1, 100), min_size=size, max_size=size),
        st.lists(st.integers(0, 4), min_size=size, max_size=size),
    )
)


@given(policies, st.integers(1, 1000), st.floats(0.01, 100))
def test_soft_kl_lies_between_zero_and_its_bounds(policy, n, temperature):
    probs, scores = np.array(policy[0]) / sum(policy[0]), np.array(policy[1], dtype=float)
    exact = soft_best_of_n_kl_exact(probs, scores, n, temperature)
    assert 0.0 <= exact <= best_of_n_kl_exact(probs, scores, n) + 1e-9
    assert exact <= soft_best_of_n_kl_bound(n, temperature, np.ptp(scores)) + 1e-9


def test_soft_bound_is_reached_at_both_ends():
    # Low temperature and many outcomes: best-of-n's bound. Equal scores: nothing.
    many = 5000
    exact = soft_best_of_n_kl_exact(np.full(many, 1 / many), np.arange(many), 4, 1e-4)
    assert exact == pytest.approx(float(soft_best_of_n_kl_bound(4, 1e-4, many - 1.0)), abs=2e-3)
    assert soft_best_of_n_kl_bound(4, 1e-4, np.inf) == best_of_n_kl_bound(4)
    assert soft_best_of_n_kl_bound(4, 1.0, 0.0) == 0.0


def test_soft_levels_of_a_pool_are_the_exact_law_of_the_pool_and_converge():
    scores = np.array([[0.0, 2.0, 2.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    expected = [soft_best_of_n_kl_exact([0.25, 0.5, 0.25], [0, 2, 5], n, 1.5) for n in (1, 3)]
    np.testing.assert_allclose(soft_best_of_n_kl_levels(scores, [1, 3], 1.5), [expected, [0.0, 0.0]], atol=1e-12)
    probs, outcomes = (np.array(part) for part in POLICIES["six"])
    draws = np.random.default_rng(0).choice(6, p=probs, size=(20, 4000))
    estimate = soft_best_of_n_kl_levels(outcomes[draws], [5], 1.0).mean()
    assert estimate == pytest.approx(soft_best_of_n_kl_exact(probs, outcomes, 5, 1.0), abs=0.003)


def test_poisson_bound_is_its_closed_form():
    mu = np.array([0.01, 0.3, 1.0, 5.0, 30.0, 500.0])
    expected = np.log1p(mu) - 1 + np.exp(-mu - 1) * (expi(mu + 1) - expi(1)) / mu
    np.testing.assert_allclose(best_of_poisson_kl_bound(mu), expected, atol=1e-12)
    # Where Ei overflows its asymptotic series takes over: exp(-x) Ei(x) = 1/x + 1/x^2 + 2/x^3 + ...
    x = 1e5 + 1
    series = (1 / x + 1 / x**2 + 2 / x**3) / 1e5
    assert best_of_poisson_kl_bound(1e5) == pytest.approx(np.log1p(1e5) - 1 + series, abs=1e-12)
    assert best_of_poisson_kl_bound(0.0) == 0.0


@pytest.mark.parametrize("mu", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("scores", [[1.0, 0.0, 2.0], [1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
def test_poisson_kl_is_that_of_the_mixture_of_best_of_n_laws(scores, mu):
    # 8 or more extra draws have a probability of 1e-5 at mu = 1; the mixture is normalised over fewer.
    probs = [0.2, 0.5, 0.3]
    shares = np.array([exp(-mu) * mu**k / factorial(k) for k in range(8)])
    laws = np.stack([best_law(probs, scores, 1 + k) for k in range(8)])
    expected = kl_of(shares @ laws / shares.sum(), probs)
    assert best_of_poisson_kl_exact(probs, scores, mu) == pytest.approx(expected, abs=1e-4)


@given(policies, st.floats(0, 1000))
def test_poisson_kl_lies_between_zero_and_the_bound(policy, mu):
    probs = np.array(policy[0]) / sum(policy[0])
    assert 0.0 <= best_of_poisson_kl_exact(probs, policy[1], mu) <= best_of_poisson_kl_bound(mu) + 1e-12


def test_poisson_bound_is_approached_as_all_outcomes_become_unlikely():
    gaps = [
        best_of_poisson_kl_bound(5.0) - best_of_poisson_kl_exact(np.full(k, 1 / k), np.arange(k), 5.0) for k in (100, 10_000)
    ]
    assert 0 < gaps[1] < 0.01 * gaps[0]


def test_poisson_levels_without_ties_are_the_bound_and_with_ties_only_the_exact_law():
    mus = [0.0, 0.5, 6.0, 200.0]
    scores = np.random.default_rng(0).normal(size=(2, 30))
    np.testing.assert_allclose(
        best_of_poisson_kl_levels(scores, mus), np.tile(best_of_poisson_kl_bound(mus), (2, 1)), atol=1e-12
    )
    tied = [[0.0, 0.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0]]
    exact = [best_of_poisson_kl_exact([2 / 8, 3 / 8, 3 / 8], [0, 1, 4], mu) for mu in mus]
    np.testing.assert_allclose(best_of_poisson_kl_levels(tied, mus)[0], exact, atol=1e-12)


def test_bad_arguments_are_refused():
    for temperature in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="temperature must be positive and finite"):
            soft_best_of_n_kl_exact([0.5, 0.5], [0, 1], 2, temperature)
    with pytest.raises(ValueError, match="n must be at least 1"):
        soft_best_of_n_kl_levels([[0.0, 1.0]], [0], 1.0)
    with pytest.raises(ValueError, match=r"score_range must be at least 0, got -1\.0"):
        soft_best_of_n_kl_bound(2, 1.0, -1.0)
    for mu in (-0.1, np.inf):
        with pytest.raises(ValueError, match="mu must be finite and at least 0"):
            best_of_poisson_kl_bound(mu)
    with pytest.raises(ValueError, match="sum to 1"):
        best_of_poisson_kl_exact([0.5, 0.4], [0, 1], 2.0)
    with pytest.raises(ValueError, match=r"scores must be finite, got inf at \(0, 0\)"):
        best_of_poisson_kl_levels([[np.inf, 1.0]], [1.0])
