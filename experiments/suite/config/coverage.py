"""Every key of `experiments/validate.py`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CoverageConfig:
    """Keys of `experiments/validate.py`."""

    studies: int = 2000
    """Simulated studies of known truth."""
    num_prompts: int = 256
    """Prompts of each."""
    num_candidates: int = 16
    """Candidates per prompt."""
    n: int = 8
    """Best of how many."""
    seeds: list[int] = field(default_factory=lambda: [3, 5, 20])
    """Numbers of training seeds whose means vary by a tenth of what prompts do."""
    resamples: int = 1000
    """Bootstrap samples behind every interval."""
    seed: int = 0
    """Of the simulation."""
    output: str = "results/coverage"
    """Where the table is written."""
