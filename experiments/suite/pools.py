"""Candidate pools: drawn once, scored once, kept in shards, grown on demand.

A shard holds a block of prompts and a range of candidates, with every score. Its folder is named by a hash of everything that
determines the draws and the scores, so nothing that was computed is computed again, and nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bon import Candidates, generate_candidates, score_candidates
from bon.candidates import stacked
from bon.kl import sequence_kl
from suite import processes
from suite.policies import Judge, Policy
from suite.schema import SamplingConfig

PROMPT_BLOCK = 32
#: Columns of the KL to the base policy, a number a candidate.
MONTE_CARLO, RAO_BLACKWELL = "kl_monte_carlo", "kl_rao_blackwell"
_FORMAT = 2


def digest(value: Any) -> str:
    """A short hash of a JSON value: the name of what it determines."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PoolMaker:
    """Draws and scores pools of one task: the same prompts, rewards and sampling for every policy."""

    cache: Path
    base: Policy
    judges: Mapping[str, Judge]
    sampling: SamplingConfig
    prompts: Sequence[Sequence[int]]

    def pool(self, policy: Policy, num_candidates: int, seed: int, progress: bool = True) -> Candidates:
        """The first `num_candidates` candidates of every prompt from `policy`: scored, with the base policy as reference.

        Shards that exist are read, missing ones drawn. A tuned policy's pool also holds its KL to the base for each candidate.
        Of several processes each draws its part of the blocks, then all read all shards: the same bits as in one.
        """
        blocks = [range(b, min(b + PROMPT_BLOCK, len(self.prompts))) for b in range(0, len(self.prompts), PROMPT_BLOCK)]
        label = "base" if policy.digest == self.base.digest else policy.name
        own = blocks[processes.rank() :: processes.size()]
        quiet = None if progress and processes.first() else True
        with tqdm(own, desc=f"{num_candidates} candidates a prompt ({label})", disable=quiet) as bar:
            parts = [self._block(policy, block, num_candidates, seed) for block in bar]
        if processes.size() > 1:
            processes.barrier()
            parts = [self._block(policy, block, num_candidates, seed) for block in blocks]
        return stacked(parts)

    def _block(self, policy: Policy, block: range, num_candidates: int, seed: int) -> Candidates:
        folder = self.cache / "pools" / self._key(policy, block, seed)
        shards = sorted(
            (int(match[1]), int(match[2]), path)
            for path in folder.glob("*.parquet")
            if (match := re.fullmatch(r"candidates-(\d+)-(\d+)", path.stem))
        )
        pool: Candidates | None = None
        drawn = 0
        while drawn < num_candidates:
            found = [(stop, path) for start, stop, path in shards if start == drawn]
            if found:
                drawn, path = max(found)
                part = Candidates.load(path)
            else:
                part = self._draw(policy, block, range(drawn, num_candidates), seed)
                part.save(folder / f"candidates-{drawn:06d}-{num_candidates:06d}.parquet")
                drawn = num_candidates
            pool = part if pool is None else pool.extended(part)
        assert pool is not None
        share = num_candidates / pool.num_candidates
        part = pool.first(num_candidates)
        spent = {key: pool.metadata[key] * share for key in ("seconds", "scoring_seconds")}
        return replace(part, metadata={**part.metadata, **spent, "tokens": int(part.lengths.sum())})

    def _key(self, policy: Policy, block: range, seed: int) -> str:
        return digest(
            {
                "format": _FORMAT,
                "policy": policy.digest,
                "base": self.base.digest,
                "rewards": {name: [judge.digest, judge.reward.label] for name, judge in self.judges.items()},
                "sampling": asdict(self.sampling),
                "seed": seed,
                "first_prompt": block.start,
                "prompts": [list(self.prompts[p]) for p in block],
                "dtype": str(policy.model.dtype),
                "device": policy.model.device.type,
            }
        )

    def _draw(self, policy: Policy, block: range, candidates: range, seed: int) -> Candidates:
        pool = generate_candidates(
            policy.model,
            policy.tokenizer,
            [self.prompts[p] for p in block],
            len(candidates),
            seed=seed,
            prompt_ids=list(block),
            first_candidate=candidates.start,
            **asdict(self.sampling),
        )
        start = time.perf_counter()
        pool = score_candidates(pool, proxy=self.judges["proxy"].reward)
        scoring_seconds = time.perf_counter() - start  # a request pays for the proxy, never for gold
        pool = score_candidates(pool, gold=self.judges["gold"].reward)
        if policy.digest == self.base.digest:
            pool = pool.with_ref_logprobs(pool.logprobs)
        elif self.sampling.top_k == 0 and self.sampling.top_p == 1.0:
            kl = sequence_kl(policy.model, self.base.model, pool)
            pool = pool.with_ref_logprobs(kl.ref_logprobs)
            pool = pool.with_scores(**{MONTE_CARLO: kl.monte_carlo, RAO_BLACKWELL: kl.rao_blackwell})
        metadata = {**pool.metadata, "policy": policy.digest, "scoring_seconds": scoring_seconds}
        return replace(pool, metadata=metadata)


def seconds_per_candidate(pool: Candidates) -> tuple[float, float]:
    """Seconds to draw one candidate and to score it with the proxy."""
    count = pool.num_prompts * pool.num_candidates
    return pool.metadata["seconds"] / count, pool.metadata["scoring_seconds"] / count
