"""A pool drawn and read block by block: it need never fit in memory, and what it takes is measured."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import psutil

from bon.estimators import best_of_n_mean
from suite.models.policies import Policy
from suite.pools.maker import PoolMaker


@dataclass(frozen=True)
class Drawn:
    """Result and cost of drawing a pool.

    Attributes:
        prompts, candidates, tokens: in the pool.
        shards, new_shards: that make it up, and those that were not there before.
        stored_bytes: of all its shards.
        seconds: from the first look for shards to the last one read; with an engine also its start.
        peak_memory_bytes: of this process and all that it started, at one moment; shared pages once.
        proxy: mean proxy reward of best-of-n for every n [N].
    """

    prompts: int
    candidates: int
    tokens: int
    shards: int
    new_shards: int
    stored_bytes: int
    seconds: float
    peak_memory_bytes: int
    proxy: np.ndarray

    @property
    def bytes_per_candidate(self) -> float:
        """On disk."""
        return self.stored_bytes / self.candidates

    def told(self) -> str:
        """In a few lines."""
        n = len(self.proxy)
        return "\n".join(
            [
                f"candidates   {self.candidates:,} of {self.prompts:,} prompts, {self.tokens:,} tokens",
                f"shards       {self.shards:,}, {self.new_shards:,} of them new; {self.stored_bytes / 1e6:,.1f} MB, "
                f"{self.bytes_per_candidate:.1f} bytes a candidate",
                f"seconds      {self.seconds:,.1f}",
                f"peak memory  {self.peak_memory_bytes / 1e9:.2f} GB, all processes together",
                f"proxy        {self.proxy[0]:.3f} for n=1, {self.proxy[-1]:.3f} for n={n}",
            ]
        )


def stream(maker: PoolMaker, policy: Policy, num_candidates: int, seed: int, progress: bool = True) -> Drawn:
    """Draw what is missing of a pool and read all of it, one block in memory at a time."""
    start = time.perf_counter()
    with PeakMemory() as memory:
        new = len(maker.missing(policy, num_candidates, seed))
        tokens, total = 0, np.zeros(num_candidates)
        for block in maker.blocks(policy, num_candidates, seed, progress):
            tokens += int(block.lengths.sum())
            total += best_of_n_mean(block.scores["proxy"]).sum(0)
        sizes = list(maker.sizes(policy, num_candidates, seed))
    prompts = len(maker.prompts)
    seconds = time.perf_counter() - start
    counts = (prompts, prompts * num_candidates, tokens, len(sizes), new, sum(sizes))
    return Drawn(*counts, seconds, memory.peak, total / prompts)


class PeakMemory:
    """Watches this process and its children, twice a second, while it is open.

    Attributes:
        peak: bytes, the most seen.
    """

    def __init__(self, interval: float = 0.5) -> None:
        self.peak = 0
        self._interval, self._closed = interval, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._watcher.join()

    def _watch(self) -> None:
        here = psutil.Process()
        while True:
            self.peak = max(self.peak, sum(map(_bytes, [here, *here.children(recursive=True)])))
            if self._closed.wait(self._interval):
                return


def _bytes(process: psutil.Process) -> int:
    """What a process adds: pages that it shares are divided among those who do, where the system tells (Linux)."""
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0
    return int(getattr(memory, "pss", memory.rss))
