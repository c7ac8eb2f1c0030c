"""The streams of random numbers of a training, one module for all trainers so that no two share one."""

from __future__ import annotations

import numpy as np

#: Streams of random numbers derived from the seed; the evaluation draws with the seed itself.
MINIBATCHES, ORDER, POOL, ROLLOUTS = 1, 2, 3, 4


def rollout_seed(seed: int) -> int:
    """Return the seed of a training's roll-outs, which share no random numbers with an evaluation by the training's seed."""
    return int(np.random.SeedSequence([seed, ROLLOUTS]).generate_state(1)[0])
