"""Two pools that must be the same to the last bit, padding aside."""

import numpy as np

COLUMNS = ("token_ids", "lengths", "logprobs", "raw_logprobs", "ref_logprobs", "texts")


def assert_same(one, two):
    for name in COLUMNS:
        first, second = getattr(one, name), getattr(two, name)
        if name == "token_ids":
            inside = np.arange(first.shape[2]) < one.lengths[..., None]
            width = min(first.shape[2], second.shape[2])
            first, second = np.where(inside, first, 0)[..., :width], np.where(inside, second[..., : first.shape[2]], 0)
        assert (first == second).all(), name
    assert set(one.scores) == set(two.scores)
    for name in one.scores:
        assert (one.scores[name] == two.scores[name]).all(), name
