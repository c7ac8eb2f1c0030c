"""KL divergence of soft best-of-n and of Best-of-Poisson from the policy that they draw from, in nats per response.

Soft best-of-n (Verdun et al. 2025) draws n responses and returns the i-th with probability proportional to
exp(score_i / temperature). Best-of-Poisson (Khalaf et al. 2025) returns the best of 1 + n' responses with n' ~ Poisson(mu).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.checks import whole
from bon.estimators.ranks import checked_pool
from bon.kl.best_of_n import best_of_n_kl_bound, lost_to_ties, score_levels, tied_ranks, times_log

Array = NDArray[np.float64]

_STEP = 0.25
"""Step of the trapezoid rule of soft best-of-n, whose error is then about 1e-15 of the result (see `_soft_ratio`)."""


def soft_best_of_n_kl_bound(n: ArrayLike, temperature: ArrayLike, score_range: ArrayLike) -> Array:
    """Upper bound on KL(soft best-of-n || reference): the smaller of log n - (n-1)/n and log(n / (1 + (n-1) exp(-range/T))).

    The first is hard best-of-n's: a response's probability is multiplied by n E[w / (w + sum of n-1 others)], with
    w = exp(score / T), which grows with its score, and hard best-of-n's score is stochastically greater, so its KL is too
    (Gibbs' inequality). The second is the logarithm of the greatest value that this factor can have. Loose between the two,
    where the temperature is about the spread of the scores: use `soft_best_of_n_kl_levels` there.

    Args:
        n: at least 1.
        temperature: above 0, in units of the score.
        score_range: highest minus lowest score that the policy can get; infinite where unknown. All broadcast.

    Raises:
        ValueError: an n below 1, a temperature that is not positive and finite, or a negative range.

    >>> soft_best_of_n_kl_bound(8, [0.001, 1.0, 1000.0], 1.0).round(4).tolist()
    [1.2044, 0.8054, 0.0009]
    """
    hard = best_of_n_kl_bound(n)
    n, temperature = np.asarray(n, dtype=np.float64), _checked_temperature(temperature)
    score_range = np.asarray(score_range, dtype=np.float64)
    if not (score_range >= 0).all():
        raise ValueError(f"score_range must be at least 0, got {score_range.min()}")
    return np.minimum(hard, np.log(n) - np.log1p((n - 1) * np.exp(-score_range / temperature)))


def soft_best_of_n_kl_exact(probs: ArrayLike, scores: ArrayLike, n: int, temperature: float) -> float:
    """KL(soft best-of-n || reference) on finite support.

    A response y of weight w = exp(score / T) is returned with probability p(y) n E[w / (w + sum of n-1 others' weights)]
    (Verdun et al. 2025). As 1 / S is the integral of exp(-t S), that factor is n w times the integral of
    exp(-t w) E[exp(-t W)]^(n-1) over t > 0: one integral instead of a sum over all n-tuples, to about n 1e-16.

    Args:
        probs: [K] reference probabilities, summing to 1.
        scores: [K] rewards.
        n: at least 1.
        temperature: above 0; towards 0 it is `best_of_n_kl_exact`, towards infinity 0.

    Raises:
        ValueError: as `best_of_n_kl_exact`, or a temperature that is not positive and finite.

    >>> round(soft_best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], n=2, temperature=1e-3), 4)    # best-of-2
    0.1308
    >>> round(soft_best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], n=2, temperature=1.0), 4)
    0.0269
    """
    best_of_n_kl_bound(n)
    mass, level_scores = score_levels(probs, scores)
    ratio = _soft_ratio(mass, level_scores / float(_checked_temperature(temperature)), [whole("n", n, 1)])[:, 0]
    return float(max(0.0, float(mass @ times_log(ratio, ratio))))


def soft_best_of_n_kl_levels(scores: ArrayLike, ns: Sequence[int], temperature: float) -> Array:
    """Estimate of KL(soft best-of-n || reference) from the scores of a pool: [P, len(ns)].

    The exact law of a policy that gives each of the N candidates the same probability. It converges as N grows, ties
    included. Average it over prompts. It errs downwards near n = N. Measured for normal scores and N = 64, in nats, at a
    temperature of one standard deviation: -0.001 at n = 2, -0.006 at n = 8, -0.02 at n = 64; of 0.3: -0.015 at n = 8, -0.18 at
    n = 64. Keep n below N / 4. Takes a product of about [N, 1,000] and [1,000, ns] a prompt.

    Args:
        scores: [P, N] what selects.
        ns: each at least 1; above N it says little.
        temperature: above 0, in units of the score.

    Raises:
        ValueError: a pool that is not finite, not two-dimensional, or empty; an n below 1; a temperature that is not positive.
    """
    scores, _ = checked_pool(scores)
    temperature = float(_checked_temperature(temperature))
    best_of_n_kl_bound(list(ns))
    result = np.empty((len(scores), len(ns)))
    for p, row in enumerate(scores):
        mass, level_scores = score_levels(np.full(len(row), 1 / len(row)), row)
        ratio = _soft_ratio(mass, level_scores / temperature, list(ns))
        result[p] = mass @ times_log(ratio, ratio)
    return np.maximum(result, 0.0)


def best_of_poisson_kl_bound(mu: ArrayLike) -> Array:
    """KL(Best-of-Poisson || reference) for continuous rewards; an upper bound where responses tie (Khalaf et al. 2025).

    The rank u of what is returned has the density (mu u + 1) exp(mu (u - 1)), whose KL from the uniform density is
    log(1 + mu) - 1 + exp(-mu-1) [Ei(mu+1) - Ei(1)] / mu. Loose where `best_of_n_kl_bound` is.

    Args:
        mu: any shape, each at least 0: the mean number of responses beyond the first.

    Raises:
        ValueError: a mu below 0 or not finite.

    >>> best_of_poisson_kl_bound([0.0, 1.0, 7.0]).round(4).tolist()
    [0.0, 0.1072, 1.1005]
    """
    mu = _checked_mu(mu)
    return np.maximum(np.log1p(mu) - 1 + _poisson_tail(mu, np.ones_like(mu)), 0.0)


def best_of_poisson_kl_exact(probs: ArrayLike, scores: ArrayLike, mu: float) -> float:
    """KL(Best-of-Poisson || reference) on finite support, ties in score broken uniformly among the tied draws.

    A level of score between F(r-) and F(r) gets G(F(r)) - G(F(r-)) with G(u) = u exp(mu (u - 1)), shared in proportion to
    the reference.

    Args:
        probs: [K] reference probabilities, summing to 1.
        scores: [K] rewards.
        mu: at least 0.

    Raises:
        ValueError: as `best_of_n_kl_exact`, or a mu below 0.
    """
    mass, _ = score_levels(probs, scores)
    above = np.minimum(np.cumsum(mass), 1.0)
    selected = np.diff(_poisson_law(float(_checked_mu(mu)), above), prepend=0.0)
    return float(max(0.0, times_log(selected, selected / mass).sum()))


def best_of_poisson_kl_levels(scores: ArrayLike, mus: Sequence[float]) -> Array:
    """Estimate of KL(Best-of-Poisson || reference) from the scores of a pool: [P, len(mus)].

    As `best_of_n_kl_levels`: tied scores are atoms, a score seen once is part of a continuum; the bias is that of n = 1 + mu.

    Args:
        scores: [P, N] what selects.
        mus: each at least 0; 1 + mu near or above N says little.

    Raises:
        ValueError: a pool that is not finite, not two-dimensional, or empty; a mu below 0.
    """
    scores, _ = checked_pool(scores)
    prompts, candidates = scores.shape
    ties = tied_ranks(scores)
    ranks = np.arange(candidates + 1) / candidates
    result = np.empty((prompts, len(mus)))
    for column, mu in enumerate(_checked_mu(list(mus))):
        selected = _poisson_law(mu, ranks)
        continuum = selected * (np.log1p(mu * ranks) + mu * (ranks - 1) - 1) + _poisson_tail(mu, ranks)
        result[:, column] = best_of_poisson_kl_bound(mu) - lost_to_ties(ties, prompts, selected, continuum)
    return np.maximum(result, 0.0)


def _soft_ratio(mass: Array, log_weights: Array, ns: Sequence[int]) -> Array:
    """By what soft best-of-n multiplies the probability of each level: [L, len(ns)], from ascending log-weights.

    With t = e^s the integrand is analytic for |Im s| < pi/2 and at most 1 / cos(Im s) times its real counterpart, so the
    trapezoid rule of step h errs by a share of order exp(-pi^2 / h).
    """
    log_weights = log_weights - log_weights[-1]
    # A level's integrand lives where t times its weight is between exp(-45) / n and exp(4).
    tail = 45 + np.log(max(ns))
    nodes = np.unique(np.floor((-tail - log_weights)[:, None] / _STEP) + np.arange(int((tail + 5) / _STEP) + 1))
    below = np.append(0.0, np.cumsum(mass))
    ratio = np.zeros((len(mass), len(ns)))
    for part in np.split(nodes, range(256, len(nodes), 256)):
        s = _STEP * part
        # Lighter levels have exp(-t w) = 1 on all of these nodes, heavier ones 0.
        light, heavy = np.searchsorted(log_weights, (-tail - s[-1], 5 - s[0]))
        log_t_weight = s + log_weights[light:heavy, None]
        t_weight = np.exp(np.minimum(log_t_weight, 700.0))
        others = np.minimum(below[light] + mass[light:heavy] @ np.exp(-t_weight), 1.0)
        ratio[light:heavy] += np.exp(log_t_weight - t_weight) @ np.stack([n * others ** (n - 1) for n in ns], axis=1)
    return _STEP * ratio


def _poisson_law(mu: float, rank: Array) -> Array:
    """Probability that Best-of-Poisson returns a response of rank at most `rank`."""
    return rank * np.exp(mu * (rank - 1))


def _poisson_tail(mu: ArrayLike, rank: Array) -> Array:
    """Integral of exp(mu (x - 1)) / (1 + mu x) over x from 0 to `rank`: exp(-mu-1) [Ei(1 + mu rank) - Ei(1)] / mu.

    By Gauss-Legendre where the integrand is not negligible, as Ei itself overflows.
    """
    mu, rank = np.broadcast_arrays(np.asarray(mu, dtype=np.float64), rank)
    nodes, weights = np.polynomial.legendre.leggauss(100)
    reach = np.minimum(rank, 45 / np.maximum(mu, 1.0))
    z = reach[..., None] * (nodes + 1) / 2
    inside = np.exp(mu[..., None] * (rank[..., None] - 1 - z)) / (1 + mu[..., None] * (rank[..., None] - z))
    return reach / 2 * (inside @ weights)


def _checked_temperature(temperature: ArrayLike) -> Array:
    temperature = np.asarray(temperature, dtype=np.float64)
    if not (np.isfinite(temperature).all() and (temperature > 0).all()):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    return temperature


def _checked_mu(mu: ArrayLike) -> Array:
    mu = np.asarray(mu, dtype=np.float64)
    if not (np.isfinite(mu).all() and (mu >= 0).all()):
        raise ValueError(f"mu must be finite and at least 0, got {mu}")
    return mu
