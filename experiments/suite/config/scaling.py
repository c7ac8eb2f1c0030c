"""Every key of `experiments/simulate.py`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ScalingConfig:
    """Keys of `experiments/simulate.py`."""

    measure: bool = False
    """Measure again on this machine (a minute on two idle cores); otherwise the tables are written from what is there."""
    ns: list[int] = field(default_factory=lambda: [16, 64])
    """Candidates a prompt of the runs whose speed is predicted; the first is the one that the simulator is set by."""
    processes: list[int] = field(default_factory=lambda: [1, 2])
    """Numbers of processes that are measured."""
    units: int = 10
    """Shards in a run."""
    candidates: int = 512
    """In one of them."""
    pool: str = "results/headline/candidates.parquet"
    """The pool whose candidates are stored again, whole and cut short, to see what a token takes."""
    cut: int = 8
    """Tokens that are left of its responses."""
    output: str = "results/scaling"
    """Where measurements are kept."""
    document: str = "docs/experiments/scale.md"
    """The page whose tables are written."""
