"""How varied responses are: distinct n-grams of a set, and the similarity of two responses to one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bon.estimators.ranks import ascending, averaged, checked_pool, tie_groups
from bon.estimators.subsets import check_n, disjoint_weights, subset_weights
from bon.optional import scipy_part

Array = NDArray[np.float64]


def distinct_n(responses: Sequence[Sequence[int]], order: int) -> tuple[float, Array]:
    """Distinct n-grams over all n-grams of a set of responses (Li et al. 2016), and the same with each response left out.

    It falls as a set grows, so compare sets of equal size. Repeats would bias a bootstrap; the second value feeds
    `bon.intervals.jackknife`.

    Args:
        responses: [P] token ids.
        order: 1 for words, 2 for pairs, ...

    Returns:
        The share, and the share without each response [P]. 1.0 where there is no n-gram.

    Raises:
        ValueError: `order` is below 1.

    >>> distinct_n([[1, 2, 3], [1, 2, 4]], order=2)[0]    # (1,2), (2,3), (1,2), (2,4)
    0.75
    """
    _check_order(order)
    grams = [Counter(zip(*(ids[i:] for i in range(order)), strict=False)) for ids in responses]
    total: Counter[tuple[int, ...]] = Counter()
    for own in grams:
        total.update(own)
    count, distinct = sum(total.values()), len(total)
    without = np.ones(len(grams))
    for i, own in enumerate(grams):
        rest = count - sum(own.values())
        if rest:
            without[i] = (distinct - sum(total[gram] == times for gram, times in own.items())) / rest
    return (distinct / count if count else 1.0), without


def best_of_n_distinct(
    token_ids: ArrayLike, lengths: ArrayLike, scores: ArrayLike, order: int, ns: Sequence[int]
) -> tuple[Array, Array]:
    """Distinct n-grams over all n-grams of one best-of-n response a prompt, for several n from one pool: [len(ns)].

    Expected number of distinct n-grams of such a set over the expected number of all, both over every way of choosing an
    n-subset for each prompt: 1 - prod_p (1 - P_p(gram)) summed over n-grams, where P_p is the probability that prompt p's
    best-of-n response has it. `distinct_n` of one drawn set estimates the same with noise. As there: compare equal numbers of
    prompts, and use the jackknife.

    Args:
        token_ids: [P, N, T] with anything behind a response's end.
        lengths: [P, N] tokens of each response.
        scores: [P, N] what selects; ties share.
        order: 1 for words, 2 for pairs, ...
        ns: each in 1..N.

    Returns:
        The share for each n, and the same without each prompt [P, len(ns)], for `bon.intervals.jackknife`. 1.0 where there is
        no n-gram.

    Raises:
        ValueError: shapes that do not fit, an empty pool, scores that are not finite, `order` below 1, or an n outside 1..N.
    """
    scores, _ = checked_pool(scores)
    prompts, candidates = scores.shape
    for n in ns:
        check_n(n, candidates)
    owner, gram, lengths = _grams(token_ids, lengths, scores.shape, order)
    count = np.maximum(lengths - order + 1, 0)
    # A prompt's n-grams, and the responses (owners) that have them.
    num_grams = int(gram.max(initial=-1)) + 1
    pair, member = np.unique(owner // candidates * num_grams + gram, return_inverse=True)
    pair_prompt, pair_gram = np.divmod(pair, max(num_grams, 1))
    by_score = np.argsort(scores, axis=1, kind="stable")
    groups = tie_groups(np.take_along_axis(scores, by_score, axis=1))
    share, without = np.ones(len(ns)), np.ones((prompts, len(ns)))
    for column, n in enumerate(ns):
        weights = np.empty(scores.shape)
        ranked = averaged(np.broadcast_to(subset_weights(candidates, n), scores.shape), groups)
        np.put_along_axis(weights, by_score, ranked, axis=1)
        has = np.bincount(member, weights.ravel()[owner], minlength=len(pair))
        # An n-gram that a prompt surely has is counted apart: its logarithm is infinite.
        sure = has > 1 - 1e-12
        log_lacks = np.log1p(-np.where(sure, 0.0, has))
        sures = np.bincount(pair_gram, sure, minlength=num_grams)
        logs = np.bincount(pair_gram, log_lacks, minlength=num_grams)
        lacked = np.where(sures > 0, 0.0, np.exp(logs))
        lacked_by_others = np.where(sures[pair_gram] - sure > 0, 0.0, np.exp(logs[pair_gram] - log_lacks))
        lost = np.bincount(pair_prompt, lacked_by_others - lacked[pair_gram], minlength=prompts)
        distinct, own = np.sum(1 - lacked), (weights * count).sum(1)
        rest = own.sum() - own
        if own.sum() > 0:
            share[column] = distinct / own.sum()
        without[:, column] = np.where(rest > 1e-9, (distinct - lost) / np.maximum(rest, 1e-9), 1.0)
    return share, without


def self_similarity(token_ids: ArrayLike, lengths: ArrayLike, scores: ArrayLike, order: int = 1) -> Array:
    """Expected similarity of two independent best-of-n responses to the same prompt, for every n: [P, N].

    The mean over all pairs of disjoint n-subsets of the Jaccard similarity of their winners: n-grams in both over n-grams in
    either. Unbiased; NaN for n > N / 2, where no two disjoint subsets are left. Column 0 is the mean over all pairs of
    candidates: what there is for a policy that is sampled once. 1 means that best-of-n always says the same. (Self-BLEU, Zhu
    et al. 2018, asks the same of a whole set, but grows with its size.)

    Args:
        token_ids: [P, N, T] with anything behind a response's end.
        lengths: [P, N] tokens of each response.
        scores: [P, N] what selects; ties share.
        order: 1 for words, 2 for pairs, ... Two responses too short for any are equal.

    Raises:
        ValueError: shapes that do not fit, an empty pool, scores that are not finite, or `order` below 1.
    """
    scores, _ = checked_pool(scores)
    prompts, candidates = scores.shape
    owner, gram, _ = _grams(token_ids, lengths, scores.shape, order)
    _, groups, order_of = ascending(scores, scores)
    result = np.full(scores.shape, np.nan)
    half = candidates // 2
    if not half:
        return result
    pairs = [disjoint_weights(candidates, n) for n in range(1, half + 1)]
    lower, upper = (np.stack(part) for part in zip(*pairs, strict=True))
    starts = np.searchsorted(owner, np.arange(prompts + 1) * candidates)
    for p in range(prompts):
        mine = slice(starts[p], starts[p + 1])
        similar = _jaccard(owner[mine] - p * candidates, gram[mine], candidates)
        similar = _averaged_pairs(similar[np.ix_(order_of[p], order_of[p])], groups[p])
        result[p, :half] = 2 * ((lower @ np.triu(similar, 1)) * upper).sum(1)
    return result


def _grams(
    token_ids: ArrayLike, lengths: ArrayLike, shape: tuple[int, ...], order: int
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.int_]]:
    """Which response (its number in [P * N], ascending) has which n-gram (numbered from 0), each once; and the lengths."""
    _check_order(order)
    ids, lengths = np.asarray(token_ids), np.asarray(lengths)
    if ids.ndim != 3 or ids.shape[:2] != shape or lengths.shape != shape:
        raise ValueError(f"token_ids and lengths must be [P, N, T] and [P, N] = {shape}, got {ids.shape} and {lengths.shape}")
    if lengths.min() < 0 or lengths.max() > ids.shape[2]:
        raise ValueError(f"lengths must lie in 0..{ids.shape[2]}, got {lengths.min()} to {lengths.max()}")
    if ids.shape[2] < order:
        return np.empty(0, int), np.empty(0, int), lengths
    places = ids.shape[2] - order + 1
    inside = np.arange(places) < (lengths - order + 1)[..., None]
    owner = np.broadcast_to(np.arange(inside[..., 0].size).reshape(*shape, 1), inside.shape)[inside]
    gram = np.zeros(len(owner), int)
    for k in range(order):
        tokens = np.unique(ids[..., k : k + places][inside], return_inverse=True)[1]
        gram = np.unique(gram * (tokens.max(initial=0) + 1) + tokens, return_inverse=True)[1]
    codes = np.sort(owner * (gram.max(initial=0) + 1) + gram)  # np.unique would hash them, which takes far longer
    once = codes[np.diff(codes, prepend=-1) > 0]
    owner, gram = np.divmod(once, gram.max(initial=0) + 1)
    return owner, gram, lengths


def _jaccard(owner: NDArray[np.int_], gram: NDArray[np.int_], size: int) -> Array:
    """Jaccard similarity of the n-gram sets of all pairs of responses: [N, N]."""
    sparse = scipy_part("sparse", "similarities of responses")
    has = sparse.csr_matrix(
        (np.ones(len(owner)), (owner, np.unique(gram, return_inverse=True)[1])), shape=(size, max(len(gram), 1))
    )
    both = (has @ has.T).toarray()
    sizes = both.diagonal()
    either = sizes[:, None] + sizes - both
    return np.where(either > 0, both / np.where(either > 0, either, 1.0), 1.0)


def _averaged_pairs(similar: Array, groups: NDArray[np.int_]) -> Array:
    """Each pair's entry averaged over all pairs of different candidates from the same two groups of equal scores."""
    if groups[-1] == len(groups) - 1:
        return similar
    member = (groups[:, None] == np.arange(groups[-1] + 1)).astype(np.float64)
    counts = member.sum(0)
    sums = member.T @ (similar - np.diag(similar.diagonal())) @ member
    pairs = np.outer(counts, counts) - np.diag(counts)
    return (sums / np.maximum(pairs, 1.0))[np.ix_(groups, groups)]


def _check_order(order: int) -> None:
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
