"""What several files of tests ask of pools: prompts to draw for, a reward, and comparisons that leave padding out."""

import numpy as np

EOS, PAD = 1, 0
# Of different lengths and not sorted, so that batches are padded and reordered.
PROMPTS = [[10, 11, 12], [13], [20, 21, 22, 23, 24, 25, 26], [14, 15], [30, 31, 32]]


def last_number(texts):
    """A reward that tells candidates apart: the number of the last word."""
    words = [text.split()[-1] for text in texts]
    return [float(word[1:]) if word[0] == "w" else 0.0 for word in words]


def assert_same(one, other, atol=1e-5):
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_array_equal(one.texts, other.texts)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol)
    np.testing.assert_allclose(one.raw_logprobs, other.raw_logprobs, atol=atol)


def responses(candidates):
    """((prompt, candidate), tokens without padding), one after the other."""
    for p, c in np.ndindex(candidates.lengths.shape):
        yield (p, c), candidates.token_ids[p, c, : candidates.lengths[p, c]].tolist()
