"""KL divergence of best-of-n from the policy that it draws from, in nats per response.

Best-of-n breaks ties in score uniformly, so only levels of score matter: with F the reference's distribution function of the
score, a level r is returned with probability F(r)^n - F(r-)^n, shared within the level in proportion to the reference.

Kinds, as in the column `kl_kind`: `bound` (log n - (n-1)/n), `beirami` (from the selected response's probability), `levels`
(from the pool's scores), `exact` (finite support). The KL of a tuned policy (`monte_carlo`, `rao_blackwell`) is in
`bon.kl.tuned`, that of soft best-of-n and Best-of-Poisson in `bon.kl.soft`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.checks import whole
from bon.estimators.ranks import checked_pool

Array = NDArray[np.float64]


def best_of_n_kl_bound(n: ArrayLike) -> Array:
    """log n - (n-1)/n: an upper bound on KL(best-of-n || reference), in nats.

    Stated by Stiennon et al. (2020) and Nakano et al. (2021) as the KL itself; Beirami et al. (2024, Theorem 1) prove that it
    is a bound, approached when no single response (and no tied score) has noticeable probability. Loose where rewards are
    tied or n nears the inverse probability of the best responses: the KL cannot exceed the surprise of the best level.

    Args:
        n: any shape, each at least 1.

    Raises:
        ValueError: an n below 1 or not finite.

    >>> best_of_n_kl_bound([1, 2, 8]).round(4).tolist()
    [0.0, 0.1931, 1.2044]
    """
    n = _checked_n(n)
    return np.log(n) - (n - 1) / n


def best_of_n_kl_beirami(n: ArrayLike, best_logprob: ArrayLike) -> Array:
    """Estimate of KL(best-of-n || reference) from the probability of the selected response (Beirami et al. 2024, Eq. 25).

    With eps the reference probability of the response that best-of-n returned:
    (1-eps)^n [log n + (n-1) log(1-eps) - (n-1)/n] + (1-(1-eps)^n) log((1-(1-eps)^n) / eps).
    Equals the bound as eps vanishes and 0 at eps = 1. Average it over prompts. Use it where single responses are likely
    (short responses, low temperature); where they are not it says what the bound says. It does not see ties in reward between
    different responses, and takes everything below the selected response for a continuum: for both it errs upwards.

    Args:
        n: at least 1.
        best_logprob: log eps, natural logarithm, at most 0. Broadcasts against n.

    Raises:
        ValueError: an n below 1, or a log-probability that is positive or not finite.

    >>> best_of_n_kl_beirami(2, np.log([1e-9, 0.5, 1.0])).round(4).tolist()
    [0.1931, 0.1791, 0.0]
    """
    n, logprob = np.broadcast_arrays(_checked_n(n), np.asarray(best_logprob, dtype=np.float64))
    if not (np.isfinite(logprob).all() and (logprob <= 1e-9).all()):
        raise ValueError(
            f"best_logprob must be finite and at most 0 (it is the log of a probability), got shape {logprob.shape} with "
            f"{np.sum(~(np.isfinite(logprob) & (logprob <= 1e-9)))} that are not"
        )
    logprob = np.minimum(logprob, 0.0)
    eps = np.exp(logprob)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_miss = np.log1p(-eps)
        miss = np.exp(n * log_miss)
        hit = -np.expm1(n * log_miss)
        never = miss * (np.log(n) + (n - 1) * log_miss - (n - 1) / n)
        once = hit * (np.log(hit) - logprob)
    never = np.where(miss > 0, never, 0.0)
    return never + np.where(hit > 0, once, 0.0)


def best_of_n_kl_levels(scores: ArrayLike) -> Array:
    """Estimate of KL(best-of-n || reference) from the scores of a pool, for every n and prompt: [P, N].

    The bound less what ties lose. A level of score held by several candidates spans ranks (a, b] of (0, 1] and is taken for
    an atom of probability b - a: it contributes q log(q / (b - a)) with q = b^n - a^n. A score seen once is taken for part of
    a continuum: it contributes the integral of g log g over its ranks, with g(u) = n u^(n-1).

    Without ties it is the bound exactly, which is right when rewards are continuous; with a few likely levels it converges to
    the exact law as N grows. Average it over prompts. The bias falls as 1 / N at fixed n and is largest near n = N, where
    everything hangs on the few best candidates. Measured for 20 equally likely levels and N = 64, in nats: -0.001 at n = 2,
    -0.006 at n = 8, -0.05 at n = 32, -0.06 at n = 64; for levels of probability 0.9, 0.09 and 0.01: -0.03 at n = 8 and -0.15
    at n = 64. A response rarer than 1 / N is taken for part of a continuum.

    Args:
        scores: [P, N] what selects.

    Raises:
        ValueError: not finite, not two-dimensional, or empty.

    >>> best_of_n_kl_levels([[0.0, 0.0, 1.0, 1.0]])[0, :2].round(4).tolist()    # two atoms of 1/2
    [0.0, 0.1308]
    """
    scores, _ = checked_pool(scores)
    prompts, candidates = scores.shape
    ties = tied_ranks(scores)
    ranks = np.arange(candidates + 1) / candidates
    log_rank = np.log(np.maximum(ranks, 1 / candidates))
    result = np.empty((prompts, candidates))
    for n in range(1, candidates + 1):
        power = ranks**n
        continuum = power * (np.log(n) + (n - 1) * (log_rank - 1 / n))
        result[:, n - 1] = best_of_n_kl_bound(n) - lost_to_ties(ties, prompts, power, continuum)
    return np.maximum(result, 0.0)


def tied_ranks(scores: Array) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.int_]]:
    """Scores that several candidates of a prompt share: the prompt, and how many candidates are below and up to each."""
    prompts, candidates = scores.shape
    starts = np.diff(np.sort(scores, axis=1), axis=1, prepend=-np.inf) > 0
    place = np.flatnonzero(starts.ravel())
    size = np.diff(place, append=prompts * candidates)
    prompt, below = np.divmod(place[size > 1], candidates)
    return prompt, below, below + size[size > 1]


def lost_to_ties(
    ties: tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.int_]], prompts: int, selected: Array, continuum: Array
) -> Array:
    """What the KL loses because ranks within a tie are not told apart: [P].

    Args:
        ties: from `tied_ranks`.
        prompts: P.
        selected: [N+1] probability that the selected response is of rank at most k / N.
        continuum: [N+1] integral of g log g from 0 to k / N, g the density of the selected response's rank.
    """
    prompt, below, above = ties
    atom = selected[above] - selected[below]
    width = (above - below) / (len(selected) - 1)
    lost = continuum[above] - continuum[below] - times_log(atom, atom / width)
    return np.bincount(prompt, lost, minlength=prompts).astype(np.float64)


def best_of_n_kl_exact(probs: ArrayLike, scores: ArrayLike, n: int) -> float:
    """KL(best-of-n || reference) on finite support, ties in score broken uniformly among the tied draws.

    A score level r gets F(r)^n - F(r-)^n, shared within the level in proportion to the reference; only levels matter.

    Args:
        probs: [K] reference probabilities, summing to 1.
        scores: [K] rewards.
        n: at least 1.

    Raises:
        ValueError: different shapes, probabilities that are none, scores that are not finite, or an n below 1.

    >>> round(best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], n=2), 4)    # 1/4 log(1/2) + 3/4 log(3/2)
    0.1308
    """
    mass, _ = score_levels(probs, scores)
    above = np.minimum(np.cumsum(mass), 1.0)
    selected = np.diff(above ** whole("n", n, 1), prepend=0.0)
    return float(max(0.0, times_log(selected, selected / mass).sum()))


def score_levels(probs: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Reference probability of each level of score and its score, ascending; levels of probability 0 are left out.

    Raises:
        ValueError: as `best_of_n_kl_exact`.
    """
    probs, scores = np.asarray(probs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if probs.ndim != 1 or probs.shape != scores.shape or not len(probs):
        raise ValueError(f"probs and scores must be [K] with K >= 1, got shapes {probs.shape} and {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got shape {scores.shape} with {np.sum(~np.isfinite(scores))} that are not")
    if not (probs >= 0).all() or not np.isclose(probs.sum(), 1.0):
        raise ValueError(f"probs must be non-negative and sum to 1, got a sum of {probs.sum()}")
    level_scores, level = np.unique(scores, return_inverse=True)
    mass = np.bincount(level, probs).astype(np.float64)
    return mass[mass > 0], level_scores[mass > 0]


def times_log(factor: Array, argument: Array) -> Array:
    """factor * log(argument), 0 where the factor is."""
    return factor * np.log(np.where(factor > 0, argument, 1.0))


def _checked_n(n: ArrayLike) -> Array:
    n = np.asarray(n, dtype=np.float64)
    if not (np.isfinite(n).all() and (n >= 1).all()):
        raise ValueError(f"n must be at least 1 and finite, got {n.min() if n.size else n} in shape {n.shape}")
    return n
