"""Means under a policy tilted by its reward, pi(y) ~ pi_ref(y) exp(r(y) / beta), from a pool that pi_ref drew.

The weights w_i ~ exp(r_i / beta) of self-normalized importance sampling are biased by O(1/N): the log of a mean errs
downwards, and no KL can exceed log N. The delete-one jackknife (Quenouille 1956, Tukey 1958) removes that order. Leaving
candidate i out of a sum subtracts one term, so all N of them cost one pass: O(P N B) for B values of beta.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.ranks import checked_pool

Array = NDArray[np.float64]


class Jackknifed(NamedTuple):
    """An estimate for each prompt and beta, and what the jackknife says of its bias.

    Attributes:
        raw: [P, B] the estimate of self-normalized weights.
        bias: [P, B] its estimated bias.
    """

    raw: Array
    bias: Array

    @property
    def corrected(self) -> Array:
        """The estimate less its bias: [P, B]. Single prompts are noisy; average over prompts."""
        return self.raw - self.bias


class TiltedPool(NamedTuple):
    """What a pool says of the tilted policy, for each prompt and beta.

    Attributes:
        objective: beta log E_ref exp(r / beta) less the mean reward of the reference, in units of the reward.
        kl: KL from the reference, in nats.
        reward: mean of the score that tilts.
        values: mean of every other column, by its name.
        effective_sample_size: [P, B] 1 / sum w_i^2 of normalized weights: 1 to N.
    """

    objective: Jackknifed
    kl: Jackknifed
    reward: Jackknifed
    values: dict[str, Jackknifed]
    effective_sample_size: Array


class _Weights(NamedTuple):
    """Normalized weights of one beta.

    Attributes:
        all: [P, N] weights of all candidates, each row summing to 1.
        top: [P] index of the greatest score.
        odds: [P, N] w_i / (1 - w_i), 0 for the greatest.
        rest: [P, N] weights of the others where the greatest is left out, 0 for itself.
        log_mean: [P] log of the mean of exp((r - max r) / beta).
        log_mean_bias: [P] its estimated bias.
    """

    all: Array
    top: NDArray[np.int_]
    odds: Array
    rest: Array
    log_mean: Array
    log_mean_bias: Array


def tilted_pool(scores: ArrayLike, betas: ArrayLike, values: Mapping[str, ArrayLike] | None = None) -> TiltedPool:
    """Estimate the policy pi_ref(y) exp(r(y) / beta) / Z at every beta.

    With L = log mean_i exp(r_i / beta): KL = sum_i w_i r_i / beta - L, and reward - beta KL = beta L. The jackknife is linear
    in the estimates, so the corrected ones obey the same identity. Rounding errors of the bias grow as beta N 1e-16: they
    matter where beta exceeds the spread of the scores a million times.

    Args:
        scores: [P, N] reward of N candidates that the reference policy drew; N at least 2.
        betas: [B] or a scalar; coefficients of the KL, above 0, in units of the reward per nat.
        values: [P, N] each; columns to average under the tilted policy.

    Raises:
        ValueError: a pool that is not finite, not [P, N], or of fewer than 2 candidates; a beta that is not above 0.
    """
    scores, _ = checked_pool(scores)
    betas = checked_betas(betas)
    if scores.shape[1] < 2:
        raise ValueError(f"scores must hold at least 2 candidates per prompt, got shape {scores.shape}: draw more of them")
    columns = {name: checked_column(scores, column, name) for name, column in (values or {}).items()}
    # Scores as distances from their mean: sums then cancel less.
    level = scores.mean(1, keepdims=True)
    gains = scores - level
    parts = []
    for beta in betas:
        weights = _weights(gains, float(beta))
        gain = _mean(gains, weights)
        log_mean = Jackknifed(weights.log_mean, weights.log_mean_bias)
        greatest = gains.max(1)
        kl = Jackknifed((gain.raw - greatest) / beta - log_mean.raw, gain.bias / beta - log_mean.bias)
        objective = Jackknifed(beta * log_mean.raw + greatest, beta * log_mean.bias)
        reward = Jackknifed(gain.raw + level[:, 0], gain.bias)
        others = [_mean(column, weights) for column in columns.values()]
        parts.append(([objective, kl, reward, *others], 1 / np.square(weights.all).sum(1)))
    objective, kl, reward, *others = (
        Jackknifed(*(np.stack(part, axis=1) for part in zip(*quantity, strict=True)))
        for quantity in zip(*(quantities for quantities, _ in parts), strict=True)
    )
    sizes = np.stack([size for _, size in parts], axis=1)
    return TiltedPool(objective, kl, reward, dict(zip(columns, others, strict=True)), sizes)


def tilted_slope(scores: ArrayLike, column: ArrayLike, beta: float) -> float:
    """Change of a column's mean per nat of KL along the tilted policies, as means over prompts: beta for the score itself.

    d mean(v) / d beta = -cov(v, r) / beta^2 and d KL / d beta = -var(r) / beta^3, under the tilted policy of each prompt.

    Args:
        scores, column: [P, N].
        beta: above 0.

    Raises:
        ValueError: as `tilted_pool`; 0 where the scores do not vary.
    """
    scores, column = checked_pool(scores, column)
    weights = _weights(scores - scores.mean(1, keepdims=True), float(checked_betas(beta)[0])).all
    off = scores - np.sum(weights * scores, axis=1, keepdims=True)
    variance = float(np.sum(weights * off**2))
    return beta * float(np.sum(weights * off * column)) / variance if variance > 0 else 0.0


def checked_betas(betas: ArrayLike) -> Array:
    """Betas as an array [B].

    Raises:
        ValueError: not [B], empty, or one that is not positive and finite.
    """
    betas = np.atleast_1d(np.asarray(betas, dtype=np.float64))
    if betas.ndim != 1 or betas.size == 0 or not (np.isfinite(betas).all() and (betas > 0).all()):
        raise ValueError(f"betas must be [B], each positive and finite, got {betas.tolist()}")
    return betas


def checked_column(scores: Array, column: ArrayLike, name: str) -> Array:
    """A column [P, N] of the pool of these scores.

    Raises:
        ValueError: another shape, or not finite; the message names it.
    """
    try:
        return checked_pool(scores, column)[1]
    except ValueError as error:
        raise ValueError(f"values[{name!r}]: {error}") from None


def _weights(gains: Array, beta: float) -> _Weights:
    """Weights of one beta, with the greatest score apart: it can hold nearly all weight, and a difference would cancel."""
    rows, count = np.arange(len(gains)), gains.shape[1]
    top = gains.argmax(1)
    greatest = gains[rows, top]
    weights = np.exp((gains - greatest[:, None]) / beta)
    total = weights.sum(1)
    others = gains.copy()
    others[rows, top] = -np.inf
    second = others.max(1)
    rest = np.exp((others - second[:, None]) / beta)
    rest_total = rest.sum(1)
    weights /= total[:, None]
    below = weights.copy()
    below[rows, top] = 0.0
    # log of (sum without i) / sum, for each i; every weight but the greatest is at most 1/2.
    without_top = np.log(rest_total / total) + (second - greatest) / beta
    without = np.log1p(-below).sum(1) + without_top
    bias = (count - 1) * (without / count + np.log(count / (count - 1)))
    return _Weights(weights, top, below / (1 - below), rest / rest_total[:, None], np.log(total / count), bias)


def _mean(column: Array, weights: _Weights) -> Jackknifed:
    """Weighted mean of a column [P, N]: without i it moves by w_i / (1 - w_i) (mean - v_i)."""
    count = column.shape[1]
    mean = np.sum(weights.all * column, axis=1)
    moved = np.sum(weights.odds * (mean[:, None] - column), axis=1) + np.sum(weights.rest * column, axis=1) - mean
    return Jackknifed(mean, (count - 1) / count * moved)
