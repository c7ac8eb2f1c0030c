"""How varied a set of responses is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def distinct_n(responses: Sequence[Sequence[int]], order: int) -> tuple[float, NDArray[np.float64]]:
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
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
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
