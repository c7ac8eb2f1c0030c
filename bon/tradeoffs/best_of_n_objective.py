"""Objective of best-of-n, reward less beta x KL gained over the reference, at the n where it is greatest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.best_of_n import best_of_n_mean
from bon.estimators.ranks import checked_pool
from bon.estimators.tilted import checked_betas

Array = NDArray[np.float64]


def best_of_n_objective(scores: ArrayLike, betas: ArrayLike, kl: ArrayLike | None = None) -> tuple[NDArray[np.int_], Array]:
    """Find the n of the greatest mean objective at every beta: that n [B], and the objective it gains on each prompt [P, B].

    n = 1 is the reference and gains 0. The n is chosen on the prompts that judge it: with few of them the gain errs upwards a
    little.

    Args:
        scores: [P, N] reward of candidates that the reference policy drew.
        betas: [B] or a scalar, above 0, in units of the reward per nat.
        kl: [N] or [P, N] KL of best-of-n for n = 1..N in nats; log n - (n-1)/n unless given. That is an upper bound
            (Beirami et al. 2024), and what is gained is then a lower one.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a beta not above 0.

    >>> n, gained = best_of_n_objective([[0.0, 1.0]], [0.1, 10.0])
    >>> n.tolist(), gained.round(4).tolist()    # 1/2 - 0.1 (log 2 - 1/2)
    ([2, 1], [[0.4807, 0.0]])
    """
    scores, _ = checked_pool(scores)
    betas = checked_betas(betas)
    ns = np.arange(1, scores.shape[1] + 1)
    cost = np.log(ns) - (ns - 1) / ns if kl is None else np.asarray(kl, dtype=np.float64)
    if cost.shape not in (scores.shape, scores.shape[1:]) or not np.isfinite(cost).all():
        raise ValueError(f"kl must be finite, and [N] or [P, N] for scores of shape {scores.shape}, got shape {cost.shape}")
    cost = np.broadcast_to(cost, scores.shape)
    gains = best_of_n_mean(scores) - scores.mean(1, keepdims=True)
    best = np.argmax(gains.mean(0) - betas[:, None] * cost.mean(0), axis=1)
    return best + 1, gains[:, best] - betas * cost[:, best]
