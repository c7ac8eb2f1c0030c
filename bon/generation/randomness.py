"""Uniform numbers that belong to a candidate, not to a call: the same however the work is cut, and nobody else's RNG moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CANDIDATE_BLOCK = 64


def candidate_uniforms(seed: int, prompt_id: int, candidates: range, steps: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one a token: [len(candidates), steps].

    The number for token t of candidate c of prompt p depends on (seed, p, c, t) alone, so asking for more candidates or more
    tokens leaves the others as they were. Streams are Philox, keyed by (seed, prompt_id, block of 64 candidates).

    >>> few = candidate_uniforms(0, prompt_id=3, candidates=range(2), steps=5)
    >>> many = candidate_uniforms(0, prompt_id=3, candidates=range(100), steps=9)
    >>> bool((many[:2, :5] == few).all())
    True
    """
    first, last = candidates.start // CANDIDATE_BLOCK, (candidates.stop - 1) // CANDIDATE_BLOCK
    keys = [np.random.SeedSequence([seed, prompt_id, block]) for block in range(first, last + 1)]
    blocks = [np.random.Generator(np.random.Philox(key)).random((steps, CANDIDATE_BLOCK)) for key in keys]
    offset = first * CANDIDATE_BLOCK
    return np.concatenate(blocks, axis=1).T[candidates.start - offset : candidates.stop - offset]


def fresh_seed() -> int:
    """A seed from the operating system's entropy; no global generator is read or moved."""
    return int(np.random.SeedSequence().generate_state(1)[0])
