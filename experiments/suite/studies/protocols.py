"""Findings of a study with few prompts and one draw each: its comparison, made again and again from a big pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bon.estimators.ranks import ascending
from bon.estimators.subsets import subset_weights

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Detection:
    """Return how often a comparison with so many prompts finds what is true.

    Attributes:
        num_prompts: prompts of the comparison.
        right_sign: share of repeats in which the difference has the true sign.
        significant_right: share in which it is also significant, by a paired t-test at 5%.
        significant_wrong: share in which it is significant and has the wrong sign.
    """

    num_prompts: int
    right_sign: float
    significant_right: float
    significant_wrong: float


def one_draw(scores: Array, values: Array, n: int, prompts: NDArray[np.int_], rng: np.random.Generator) -> Array:
    """Report of a study that draws n candidates per prompt and keeps the best: the value of one draw, shape as `prompts`.

    The winner of a random n-subset is drawn by its rank, whose law is known.

    Args:
        scores: [P, N] what selects.
        values: [P, N] what is reported.
        n: candidates to choose from.
        prompts: indices into the P prompts, any shape; an index that comes twice gets two draws.
        rng: the randomness.
    """
    ordered, _, _ = ascending(scores, values)
    up_to = np.cumsum(subset_weights(scores.shape[1], n))
    rank = np.searchsorted(up_to / up_to[-1], rng.random(prompts.shape), side="right")
    return np.asarray(ordered[prompts, rank])


def detection(
    a: tuple[Array, Array, int], b: tuple[Array, Array, int], truth: float, num_prompts: int, repeats: int, seed: int
) -> Detection:
    """Studies of `num_prompts` prompts (drawn with replacement from all), each with one draw a prompt of either method.

    Args:
        a, b: scores [P, N], values [P, N] and n of the two methods, on the same prompts.
        truth: the difference a - b, of which the sign is asked for.
        num_prompts: prompts of each study.
        repeats: how many studies.
        seed: of the randomness.
    """
    rng = np.random.default_rng([seed, num_prompts])
    prompts = rng.integers(len(a[0]), size=(repeats, num_prompts))
    differences = one_draw(*a, prompts, rng) - one_draw(*b, prompts, rng)
    means = differences.mean(1)
    errors = differences.std(1, ddof=1) / np.sqrt(num_prompts)
    significant = np.abs(means) > stats.t.ppf(0.975, num_prompts - 1) * errors
    right = np.sign(means) == np.sign(truth)
    return Detection(num_prompts, *(float(part.mean()) for part in (right, right & significant, ~right & significant)))
