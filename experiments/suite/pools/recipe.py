"""Shards and how they are made: the two stages of every engine, and what determines them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from tqdm import tqdm

from bon import Candidates, generate_candidates, score_candidates
from bon.kl import sequence_kl
from bon.likelihood import sequence_logprobs
from suite.config.run import SamplingConfig
from suite.metrics.vocabulary import BASE_LOGPROB, MONTE_CARLO, PROXY_TOKENS, RAO_BLACKWELL
from suite.models.flops import scored_tokens
from suite.models.policies import Policy
from suite.models.rewards import Judge
from suite.pools.shards import Shards
from suite.runtime.hashing import digest

#: The prompts of a shard, and the most candidates of each.
PROMPT_BLOCK, MOST_CANDIDATES = 32, 256
_FORMAT = 3
#: Where a shard says what made it.
TOLD = "shard"


@dataclass(frozen=True)
class Unit:
    """A shard to draw: a block of prompts and a range of their candidates, below the key of its configuration."""

    key: str
    prompts: list[list[int]]
    prompt_ids: range
    candidates: range


@dataclass(frozen=True)
class Recipe:
    """Recipe by which the candidates of one policy are drawn and scored: the two stages of every engine.

    Attributes:
        engine: who draws, where the draws depend on it; blank for those that give the same bits.
        device: where the models run.
    """

    policy: Policy
    base: Policy
    judges: Mapping[str, Judge]
    sampling: SamplingConfig
    seed: int
    device: str
    engine: str = ""

    @cached_property
    def _settings(self) -> dict[str, Any]:
        engine = {"engine": self.engine} if self.engine else {}
        return {
            "format": _FORMAT,
            "policy": self.policy.digest,
            "base": self.base.digest,
            "rewards": {name: [judge.digest, judge.reward.label] for name, judge in self.judges.items()},
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "dtype": str(self.policy.model.dtype),
            "device": self.device,
            **engine,
        }

    def told(self, prompts: Sequence[Sequence[int]], first_prompt: int) -> dict[str, Any]:
        """Everything that determines a block's draws and scores, its prompts by their hash."""
        return {**self._settings, "first_prompt": first_prompt, "prompts": digest([list(prompt) for prompt in prompts])}

    def key(self, prompts: Sequence[Sequence[int]], first_prompt: int) -> str:
        """The name of the folder of a block's shards."""
        return digest({**self._settings, "first_prompt": first_prompt, "prompts": [list(prompt) for prompt in prompts]})

    def drawn(self, unit: Unit) -> Candidates:
        """The first stage: responses, without scores."""
        return generate_candidates(
            self.policy.model,
            self.policy.tokenizer,
            unit.prompts,
            len(unit.candidates),
            seed=self.seed,
            prompt_ids=list(unit.prompt_ids),
            first_candidate=unit.candidates.start,
            **asdict(self.sampling),
        )

    def scored(self, unit: Unit, pool: Candidates) -> Candidates:
        """The second stage: rewards, what the proxy read, the base policy's log-probabilities, a tuned policy's KL to it."""
        start = time.perf_counter()
        pool = score_candidates(pool, proxy=self.judges["proxy"].reward)
        scoring_seconds = time.perf_counter() - start  # a request pays for the proxy, never for gold
        pool = pool.with_scores(**{PROXY_TOKENS: scored_tokens(pool, self.judges["proxy"].reward)})
        if "gold" in self.judges:
            pool = score_candidates(pool, gold=self.judges["gold"].reward)
        if self.policy.digest == self.base.digest:
            pool = pool.with_ref_logprobs(pool.logprobs)
        elif self.sampling.top_k == 0 and self.sampling.top_p == 1.0:
            kl = sequence_kl(self.policy.model, self.base.model, pool)
            pool = pool.with_ref_logprobs(kl.ref_logprobs)
            pool = pool.with_scores(**{MONTE_CARLO: kl.monte_carlo, RAO_BLACKWELL: kl.rao_blackwell})
        if self.sampling.warps():
            is_base = self.policy.digest == self.base.digest
            own = pool.raw_logprobs if is_base else sequence_logprobs(self.base.model, pool)
            pool = pool.with_scores(**{BASE_LOGPROB: own})
        told = self.told(unit.prompts, unit.prompt_ids.start)
        metadata = {**pool.metadata, "policy": self.policy.digest, "scoring_seconds": scoring_seconds, TOLD: told}
        return replace(pool, metadata=metadata)


class Engine(Protocol):
    """Draws shards elsewhere than in this process."""

    @property
    def name(self) -> str:
        """Goes into the key of the shards where their draws depend on it; blank where they do not."""
        ...

    @property
    def device(self) -> str:
        """Devices of the models; goes into the key."""
        ...

    def fill(self, recipe: Recipe, units: Sequence[Unit], shards: Shards, bar: tqdm) -> None:
        """Draw and score every unit, and keep it as a shard; `bar` is moved by one for each."""
        ...
