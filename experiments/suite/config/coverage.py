"""Every key of `experiments/validate.py`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CoverageConfig:
    """Keys of `experiments/validate.py`."""

    studies: int = 500
    """Simulated studies of known truth."""
    num_prompts: int = 256
    """Prompts of each."""
    num_candidates: int = 16
    """Candidates per prompt."""
    n: int = 8
    """Best of how many."""
    seeds: list[int] = field(default_factory=lambda: [3, 5])
    """Numbers of training seeds."""
    seed_spreads: list[float] = field(default_factory=lambda: [0.1, 0.6, 1.3])
    """Standard deviation between the trainings' means, in that of the prompts; 0.6 to 1.3 are those of the frontier's."""
    seed_skewness: float = 2.0
    """Skewness of the trainings' means: 0 is normal, 2 exponential."""
    pool: int = 64
    """Candidates per prompt of the pool that the optimum is estimated from."""
    resamples: int = 400
    """Bootstrap samples behind every interval."""
    seed: int = 0
    """Of the simulation."""
    output: str = "results/coverage"
    """Where the table is written."""
