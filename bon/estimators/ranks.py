"""Scores of a pool in ascending order, groups of equal scores, and averages within them: what all-n estimators read."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def checked_pool(scores: ArrayLike, values: ArrayLike | None = None) -> tuple[Array, Array]:
    """Scores and values as arrays [P, N]; the values are the scores unless given.

    Raises:
        ValueError: not finite, not two-dimensional, empty, or of different shapes.
    """
    checked = []
    for name, array in (("scores", scores), ("values", scores if values is None else values)):
        array = np.asarray(array, dtype=np.float64)
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"{name} must be [prompts, candidates] with at least one of each, got shape {array.shape}")
        if not np.isfinite(array).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite, got {array[where]} at {where} of shape {array.shape}")
        checked.append(array)
    if checked[0].shape != checked[1].shape:
        raise ValueError(f"values must have the shape of scores {checked[0].shape}, got {checked[1].shape}")
    return checked[0], checked[1]


def ascending(scores: Array, values: Array) -> tuple[Array, NDArray[np.int_], NDArray[np.int_]]:
    """Values in ascending order of scores, the group of equal scores of each place, and the order itself: [P, N] each."""
    order = np.argsort(scores, axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1), tie_groups(np.take_along_axis(scores, order, axis=1)), order


def values_by_rank(scores: Array, values: Array) -> Array:
    """Values in ascending order of scores [P, N], averaged over groups of equal scores."""
    ordered, groups, _ = ascending(scores, values)
    return averaged(ordered, groups)


def tie_groups(ascending_scores: Array) -> NDArray[np.int_]:
    """Running number of the group of equal scores that each entry belongs to [P, N], from scores in ascending order."""
    return np.cumsum(np.diff(ascending_scores, axis=1, prepend=ascending_scores[:, :1]) > 0, axis=1)


def group_bounds(groups: NDArray[np.int_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First place of each entry's group, and the place behind its last: [P, N] each."""
    candidates = groups.shape[1]
    place = np.arange(candidates)
    starts = np.concatenate([np.ones((len(groups), 1), dtype=bool), np.diff(groups, axis=1) > 0], axis=1)
    ends = np.concatenate([starts[:, 1:], np.ones((len(groups), 1), dtype=bool)], axis=1)
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, candidates)[:, ::-1], axis=1)[:, ::-1]
    return first, last + 1


def averaged(values: Array, groups: NDArray[np.int_]) -> Array:
    """Values [P, N] averaged within each row's groups."""
    prompts, candidates = values.shape
    if groups[:, -1].min(initial=candidates) == candidates - 1:
        return np.asarray(values)
    flat = (groups + np.arange(prompts)[:, None] * candidates).ravel()
    sums = np.bincount(flat, np.ascontiguousarray(values).ravel(), minlength=prompts * candidates)
    counts = np.bincount(flat, minlength=prompts * candidates)
    return (sums[flat] / counts[flat]).reshape(prompts, candidates)
