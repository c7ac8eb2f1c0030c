"""KL of best-of-n against n-fold enumeration, closed forms and the exact law."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bon.kl import best_of_n_kl_beirami, best_of_n_kl_bound, best_of_n_kl_exact, best_of_n_kl_levels


def law_by_enumeration(probs, scores, n):
    """Draw n outcomes in all K^n ways, return the best, ties uniformly among the draws: law of what comes out."""
    selected = np.zeros(len(probs))
    for draws in product(range(len(probs)), repeat=n):
        best = max(scores[i] for i in draws)
        tied = [i for i in draws if scores[i] == best]
        for i in tied:
            selected[i] += np.prod([probs[j] for j in draws]) / len(tied)
    assert selected.sum() == pytest.approx(1.0)
    return selected


def kl_by_enumeration(probs, scores, n):
    selected = law_by_enumeration(probs, scores, n)
    inside = selected > 0
    return float(np.sum(selected[inside] * np.log(selected[inside] / np.asarray(probs)[inside])))


POLICIES = {
    "no ties": ([0.2, 0.5, 0.3], [1.0, 0.0, 2.0]),
    "tie at the top": ([0.2, 0.5, 0.3], [1.0, 0.0, 1.0]),
    "tie at the bottom": ([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 2.0, 1.0]),
    "all tied": ([0.1, 0.2, 0.7], [5.0, 5.0, 5.0]),
    "two pairs": ([0.05, 0.15, 0.3, 0.1, 0.4], [1.0, 2.0, 1.0, 2.0, 0.0]),
    "an impossible outcome": ([0.5, 0.0, 0.25, 0.25], [0.0, 9.0, 1.0, 1.0]),
    "six": ([0.3, 0.05, 0.1, 0.15, 0.2, 0.2], [0.0, 3.0, 1.0, 3.0, -2.0, 1.0]),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_exact_kl_is_that_of_n_fold_enumeration(name, n):
    probs, scores = POLICIES[name]
    assert best_of_n_kl_exact(probs, scores, n) == pytest.approx(kl_by_enumeration(probs, scores, n), abs=1e-12)


def test_sampled_best_of_n_converges_to_the_exact_law():
    # The plug-in KL of the empirical law of 200,000 selections is off by about K / (2 * 200,000) and by noise of about 0.002.
    probs, scores = POLICIES["six"]
    rng = np.random.default_rng(0)
    draws = rng.choice(6, p=probs, size=(200_000, 4))
    noisy = np.asarray(scores)[draws] + 1e-9 * rng.random(draws.shape)  # breaks ties uniformly
    selected = np.take_along_axis(draws, noisy.argmax(1)[:, None], 1)[:, 0]
    law = np.bincount(selected, minlength=6) / len(selected)
    assert np.sum(law * np.log(law / probs)) == pytest.approx(best_of_n_kl_exact(probs, scores, 4), abs=0.006)


finite_policies = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(1, 1000), min_size=size, max_size=size),
        st.lists(st.integers(0, 4), min_size=size, max_size=size),
    )
)


@given(finite_policies, st.integers(1, 10_000))
def test_exact_kl_lies_between_zero_and_the_bound(policy, n):
    mass, scores = np.array(policy[0], dtype=float), policy[1]
    exact = best_of_n_kl_exact(mass / mass.sum(), scores, n)
    assert 0.0 <= exact <= best_of_n_kl_bound(n) + 1e-12


@given(finite_policies, st.integers(1, 200))
def test_exact_kl_grows_with_n_up_to_the_surprise_of_the_best_level(policy, n):
    probs, scores = np.array(policy[0], dtype=float) / sum(policy[0]), np.array(policy[1])
    now, later = best_of_n_kl_exact(probs, scores, n), best_of_n_kl_exact(probs, scores, n + 1)
    assert now <= later + 1e-12
    assert later <= -np.log(probs[scores == scores.max()].sum()) + 1e-9


@pytest.mark.parametrize("n", [2, 8, 64])
def test_bound_is_approached_as_all_outcomes_become_unlikely(n):
    gaps = [best_of_n_kl_bound(n) - best_of_n_kl_exact(np.full(k, 1 / k), np.arange(k), n) for k in (100, 1000, 10_000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 5e-4


def test_bound_by_hand():
    np.testing.assert_allclose(best_of_n_kl_bound([1, 2, 4]), [0.0, np.log(2) - 0.5, np.log(4) - 0.75])


def test_only_the_order_of_scores_matters_to_the_exact_kl():
    probs, scores = POLICIES["six"]
    assert best_of_n_kl_exact(probs, np.exp(scores), 3) == pytest.approx(best_of_n_kl_exact(probs, scores, 3), abs=1e-14)


@given(st.integers(1, 5000), st.floats(1e-6, 1.0))
def test_beirami_is_exact_where_only_the_best_response_is_likely(n, eps):
    # The law behind Eq. 25: one best response of probability eps, the rest continuous. Its KL, integrated numerically:
    # best: q log(q / eps), q = 1 - (1 - eps)^n; the rest: integral of n F^(n-1) log(n F^(n-1)) over F in (0, 1 - eps).
    q = -np.expm1(n * np.log1p(-eps)) if eps < 1 else 1.0
    nodes, weights = np.polynomial.legendre.leggauss(200)
    # Substituting s = F^n turns n F^(n-1) dF into ds; with s = m exp(-x) the integrand is smooth.
    miss = (1 - eps) ** n
    x = 20 * (nodes + 1)
    density = miss * np.exp(-x)
    log_s = (n * np.log1p(-eps) - x) if eps < 1 else -np.inf * np.ones_like(x)
    rest = np.sum(20 * weights * density * (np.log(n) + (n - 1) / n * log_s)) if miss > 0 else 0.0
    assert best_of_n_kl_beirami(n, np.log(eps)) == pytest.approx(q * np.log(q / eps) + rest, abs=1e-7)


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("eps", [0.02, 0.3])
def test_beirami_agrees_with_the_exact_law_of_one_likely_and_many_unlikely_responses(n, eps):
    many = 20_000
    probs = np.append(np.full(many, (1 - eps) / many), eps)
    assert best_of_n_kl_beirami(n, np.log(eps)) == pytest.approx(best_of_n_kl_exact(probs, np.arange(many + 1), n), abs=2e-3)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_beirami_averaged_over_selections_is_nearer_to_the_exact_kl_than_the_bound(n):
    # Six responses of different probability: draw, select, average Eq. 25 of what was selected. It errs upwards (it takes the
    # responses below the selected one for a continuum), and by less than half of what the bound does.
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(6))
    scores = rng.permutation(6)
    draws = rng.choice(6, p=probs, size=(20_000, n))
    selected = np.take_along_axis(draws, scores[draws].argmax(1)[:, None], 1)[:, 0]
    exact = best_of_n_kl_exact(probs, scores, n)
    estimate = best_of_n_kl_beirami(n, np.log(probs[selected])).mean()
    assert -0.002 < estimate - exact < 0.5 * (best_of_n_kl_bound(n) - exact)


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_beirami_limits(n):
    # Certain response: nothing to choose from. Vanishing one: the bound, also where exp underflows. n = 1: the policy itself.
    assert best_of_n_kl_beirami(n, 0.0) == 0.0
    assert best_of_n_kl_beirami(n, -40.0) == pytest.approx(best_of_n_kl_bound(n), abs=1e-9)
    assert best_of_n_kl_beirami(n, -2000.0) == pytest.approx(best_of_n_kl_bound(n), abs=1e-12)
    assert best_of_n_kl_beirami(1, np.log([0.001, 0.5, 0.999])) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(1, 10_000), st.floats(-60, 0))
def test_beirami_lies_between_zero_and_the_bound(n, logprob):
    assert -1e-9 <= best_of_n_kl_beirami(n, logprob) <= best_of_n_kl_bound(n) + 1e-9


def test_beirami_broadcasts_n_against_responses():
    result = best_of_n_kl_beirami([[1], [4]], np.log([0.1, 0.2, 0.3]))
    assert result.shape == (2, 3)
    assert result[1, 2] == pytest.approx(float(best_of_n_kl_beirami(4, np.log(0.3))))


def test_bad_arguments_are_refused():
    for n in (0, -3, np.nan, np.inf):
        with pytest.raises(ValueError, match="n must be at least 1"):
            best_of_n_kl_bound(n)
    with pytest.raises(ValueError, match="best_logprob must be finite and at most 0"):
        best_of_n_kl_beirami(2, 0.5)
    with pytest.raises(ValueError, match="best_logprob must be finite"):
        best_of_n_kl_beirami(2, -np.inf)
    with pytest.raises(ValueError, match=r"sum to 1, got a sum of 0\.9"):
        best_of_n_kl_exact([0.5, 0.4], [0, 1], 2)
    with pytest.raises(ValueError, match="non-negative"):
        best_of_n_kl_exact([1.5, -0.5], [0, 1], 2)
    with pytest.raises(ValueError, match="non-negative and sum to 1, got a sum of nan"):
        best_of_n_kl_exact([np.nan, 0.5], [0, 1], 2)
    with pytest.raises(ValueError, match="scores must be finite"):
        best_of_n_kl_exact([0.5, 0.5], [0, np.nan], 2)
    with pytest.raises(ValueError, match=r"\[K\] with K >= 1, got shapes \(2,\) and \(3,\)"):
        best_of_n_kl_exact([0.5, 0.5], [0, 1, 2], 2)


@pytest.mark.parametrize("candidates", [1, 2, 9, 64])
def test_levels_without_ties_are_the_bound(candidates):
    scores = np.random.default_rng(0).normal(size=(3, candidates))
    expected = np.tile(best_of_n_kl_bound(np.arange(1, candidates + 1)), (3, 1))
    np.testing.assert_allclose(best_of_n_kl_levels(scores), expected, atol=1e-12)


def test_levels_of_tied_candidates_only_are_the_exact_law_of_the_pool():
    scores = np.array([[0.0, 0.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0]])
    exact = [best_of_n_kl_exact([2 / 8, 3 / 8, 3 / 8], [0, 1, 4], n) for n in range(1, 9)]
    np.testing.assert_allclose(best_of_n_kl_levels(scores)[0], exact, atol=1e-12)


def test_levels_take_a_score_seen_once_for_many_unlikely_ones():
    # One tie of two among six: the exact law with each other candidate split into 20,000 responses.
    scores = [[3.0, 0.0, 1.0, 5.0, 1.0, 7.0]]
    many = 20_000
    parts = [np.full(many, score) + np.linspace(0, 0.5, many) for score in (0.0, 3.0, 5.0, 7.0)]
    probs = np.append(np.full(4 * many, 1 / 6 / many), 2 / 6)
    for n in (2, 4, 6):
        exact = best_of_n_kl_exact(probs, np.append(np.concatenate(parts), 1.0), n)
        assert best_of_n_kl_levels(scores)[0, n - 1] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("name", POLICIES)
def test_levels_converge_to_the_exact_law(name):
    # The bias falls as 1 / N: 4,000 candidates leave less than 0.002 nats at n = 5, the mean of 50 pools a tenth of that.
    probs, scores = POLICIES[name]
    draws = np.random.default_rng(1).choice(len(probs), p=probs, size=(50, 4000))
    estimate = best_of_n_kl_levels(np.asarray(scores)[draws])[:, [0, 1, 4]].mean(0)
    exact = [best_of_n_kl_exact(probs, scores, n) for n in (1, 2, 5)]
    np.testing.assert_allclose(estimate, exact, atol=0.002)


def test_bias_of_levels_is_as_stated():
    # 20 equally likely levels, N = 64, 3,000 pools: the standard error of the largest is 0.005.
    scores = np.random.default_rng(2).integers(0, 20, (3000, 64))
    estimate = best_of_n_kl_levels(scores).mean(0)
    for n, stated, slack in ((2, -0.001, 5e-4), (8, -0.006, 2e-3), (32, -0.05, 0.01), (64, -0.06, 0.02)):
        exact = best_of_n_kl_exact(np.full(20, 1 / 20), np.arange(20), n)
        assert estimate[n - 1] - exact == pytest.approx(stated, abs=slack)


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_levels_lie_between_zero_and_the_bound_and_see_only_the_order_of_scores(rows, seed):
    scores = np.array(rows, dtype=float)
    estimate = best_of_n_kl_levels(scores)
    assert (estimate <= best_of_n_kl_bound(np.arange(1, 8)) + 1e-12).all()
    assert (estimate >= 0).all()
    shuffled = np.random.default_rng(seed).permuted(np.exp(scores), axis=1)
    np.testing.assert_allclose(best_of_n_kl_levels(shuffled), estimate, atol=1e-12)


def test_sampled_kls_converge_as_the_root_of_the_prompts():
    # Each prompt samples a policy and selects one response; 16 times the prompts quarter the error. Root mean squares of
    # 200 studies are known to 5%.
    probs, scores = np.array(POLICIES["six"][0]), np.array(POLICIES["six"][1])
    rng = np.random.default_rng(3)
    n = 3
    draws = rng.choice(6, p=probs, size=(200, 1024, n))
    noisy = scores[draws] + 1e-9 * rng.random(draws.shape)
    selected = np.take_along_axis(draws, noisy.argmax(2)[..., None], 2)[..., 0]
    # The Monte-Carlo KL of best-of-n: the log ratio of its law to the reference at what it selected.
    estimate = np.log(law_by_enumeration(probs, scores, n) / probs)[selected]
    exact = best_of_n_kl_exact(probs, scores, n)
    errors = [np.sqrt(np.mean((estimate[:, :size].mean(1) - exact) ** 2)) for size in (64, 1024)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)


def test_bad_pools_are_refused():
    with pytest.raises(ValueError, match=r"scores must be finite, got nan at \(0, 1\)"):
        best_of_n_kl_levels([[0.0, np.nan]])
    with pytest.raises(ValueError, match=r"scores must be \[prompts, candidates\].*got shape \(0, 3\)"):
        best_of_n_kl_levels(np.zeros((0, 3)))
