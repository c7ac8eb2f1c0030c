"""Answers that are right or wrong, for every k at once from one pool: at least one right, all right, the majority right.

Each is the share of all k-subsets of a prompt's N candidates for which it holds: unbiased for every k <= N. Give a column of
it to `bon.intervals.bootstrap_mean` for an interval over prompts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
#: Sums of binomial coefficients of more overflow.
_MOST = 1000


def pass_at_k(correct: ArrayLike) -> Array:
    """Probability that at least one of k candidates is right, for every k from 1 to N: [P, N], column k-1 for k.

    1 - C(N - c, k) / C(N, k) with c right ones (Chen et al. 2021, Evaluating large language models trained on code,
    arXiv:2107.03374).

    Args:
        correct: [P, N] whether each candidate is right: truth values, or 1 and 0.

    Raises:
        ValueError: another shape, or something else in it.

    >>> pass_at_k([[True, False, False]]).round(4).tolist()
    [[0.3333, 0.6667, 1.0]]
    """
    correct = _checked(correct)
    return 1.0 - _all_among(correct.shape[1] - correct.sum(axis=1), correct.shape[1])


def pass_hat_k(correct: ArrayLike) -> Array:
    """Probability that all of k candidates are right, for every k from 1 to N: [P, N], column k-1 for k.

    C(c, k) / C(N, k) with c right ones: pass^k of Yao, Shinn, Razavi and Narasimhan 2024, tau-bench, arXiv:2406.12045.

    Args:
        correct: as in `pass_at_k`.

    Raises:
        ValueError: as `pass_at_k`.

    >>> pass_hat_k([[True, True, False]]).round(4).tolist()
    [[0.6667, 0.3333, 0.0]]
    """
    correct = _checked(correct)
    return _all_among(correct.sum(axis=1), correct.shape[1])


def majority_at_k(answers: Sequence[Sequence[Hashable]] | NDArray[Any], correct: ArrayLike) -> Array:
    """Probability that the most frequent answer of k candidates is right, for every k from 1 to N: [P, N], column k-1 for k.

    Of equally frequent answers each is the majority with equal probability. A subset without any answer is wrong. Counts
    subsets exactly: with m_i candidates of answer i, those in which answer j leads with t votes and ties with s others are the
    coefficient of x^(k-t) y^s in the product over i of sum_(u<t) C(m_i, u) x^u + y C(m_i, t) x^t, times C(m_j, t).
    512 prompts of 64 candidates take seconds; a prompt of 1,000 takes minutes.

    Args:
        answers: [P, N] hashable answers, None where a response has none (`bon.selection.answers_of`).
        correct: [P, N] as in `pass_at_k`; equal answers are equally right.

    Raises:
        ValueError: as `pass_at_k`, another shape of answers, an answer that is right and wrong, or more than 1,000 candidates.

    >>> majority_at_k([["4", "5", "4"]], [[True, False, True]]).round(4).tolist()
    [[0.6667, 0.6667, 1.0]]
    """
    correct = _checked(correct)
    rows = [list(row) for row in answers]
    if [len(row) for row in rows] != [correct.shape[1]] * len(correct):
        raise ValueError(f"answers must have the shape of correct {correct.shape}")
    count = correct.shape[1]
    if count > _MOST:
        raise ValueError(f"majority_at_k counts subsets of up to {_MOST} candidates, got {count}: take pool.first({_MOST})")
    result = np.zeros(correct.shape)
    for p, row in enumerate(rows):
        votes = Counter(one for one in row if one is not None)
        right = {one for one, good in zip(row, correct[p], strict=True) if good and one is not None}
        wrong = {one for one, good in zip(row, correct[p], strict=True) if not good}
        if right & wrong:
            raise ValueError(
                f"answer {next(iter(right & wrong))!r} of prompt {p} is right in one candidate and wrong in another"
            )
        total = np.array([float(math.comb(count, k)) for k in range(count + 1)])
        for one in right:
            others = sorted(votes[other] for other in votes if other != one)
            result[p] += (_leading(votes[one], others, count) / total)[1:]
    return result


def _leading(own: int, others: Sequence[int], count: int) -> Array:
    """How many k-subsets an answer with `own` candidates leads, ties shared: [N + 1]."""
    subsets = np.zeros(count + 1)
    for lead in range(1, own + 1):
        rivals = [size for size in others if size >= lead]
        # Who has fewer candidates than that cannot tie: any of them, and those without an answer, may be in the subset.
        free = count - own - sum(rivals)
        ways = [np.array([float(math.comb(free, u)) for u in range(free + 1)])]  # by number of ties
        for size in rivals:
            behind = np.array([float(math.comb(size, u)) for u in range(lead)])
            tied = np.concatenate([np.zeros(lead), [float(math.comb(size, lead))]])
            grown = [np.convolve(way, behind) for way in ways] + [np.zeros(0)]
            for ties, way in enumerate(ways):
                grown[ties + 1] = _sum(grown[ties + 1], np.convolve(way, tied))
            ways = grown
        for ties, way in enumerate(ways):
            subsets[lead : lead + len(way)] += math.comb(own, lead) * way / (1 + ties)
    return subsets


def _sum(a: Array, b: Array) -> Array:
    width = max(len(a), len(b))
    return np.pad(a, (0, width - len(a))) + np.pad(b, (0, width - len(b)))


def _all_among(marked: NDArray[np.int_], count: int) -> Array:
    """Probability that all of k are among `marked` [P] of N, for every k: C(marked, k) / C(N, k), [P, N]."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    k = np.arange(1, count + 1)
    left = marked[:, None] - k
    log_share = (
        log_factorial[marked][:, None] - log_factorial[np.maximum(left, 0)] - log_factorial[count] + log_factorial[count - k]
    )
    share = np.where(left >= 0, np.exp(np.minimum(log_share, 0.0)), 0.0)
    share[marked == count] = 1.0  # to the bit
    return share


def _checked(correct: ArrayLike) -> NDArray[np.int_]:
    array = np.asarray(correct)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"correct must be [prompts, candidates] with at least one of each, got shape {array.shape}")
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError("correct must hold truth values, or 1 and 0") from None
    if not np.isin(numbers, (0.0, 1.0)).all():
        raise ValueError("correct must hold truth values, or 1 and 0")
    return numbers.astype(np.int_)
