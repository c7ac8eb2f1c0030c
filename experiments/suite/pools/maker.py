"""Candidate pools: drawn once, scored once, kept in shards, grown on demand.

A shard holds a block of prompts and a range of candidates, with every score. Its folder is named by a hash of everything that
determines the draws and the scores, so nothing that was computed is computed again, and nothing stale is ever read. Every
engine draws the same shards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from bon import Candidates, generate_candidates, score_candidates
from bon.candidates import stacked
from bon.kl import sequence_kl
from bon.likelihood import sequence_logprobs
from suite.config.run import SamplingConfig
from suite.metrics.vocabulary import BASE_LOGPROB, MONTE_CARLO, PROXY_TOKENS, RAO_BLACKWELL
from suite.models.flops import scored_tokens
from suite.models.policies import Judge, Policy
from suite.pools.shards import LocalShards, Shards, pieces
from suite.runtime import distributed
from suite.runtime.errors import UserError
from suite.runtime.hashing import digest

#: The prompts of a shard, and the most candidates of each.
PROMPT_BLOCK, MOST_CANDIDATES = 32, 256
_FORMAT = 3
#: Where a shard says what made it.
_TOLD = "shard"


@dataclass(frozen=True)
class Unit:
    """A shard to draw: a block of prompts and a range of their candidates, below the key of its configuration."""

    key: str
    prompts: list[list[int]]
    prompt_ids: range
    candidates: range


@dataclass(frozen=True)
class Recipe:
    """How the candidates of one policy are drawn and scored: the two stages of every engine.

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
        metadata = {**pool.metadata, "policy": self.policy.digest, "scoring_seconds": scoring_seconds, _TOLD: told}
        return replace(pool, metadata=metadata)


class Engine(Protocol):
    """Draws shards elsewhere than in this process."""

    @property
    def name(self) -> str:
        """Goes into the key of the shards where their draws depend on it; blank where they do not."""
        ...

    @property
    def device(self) -> str:
        """Where the models run; goes into the key."""
        ...

    def fill(self, recipe: Recipe, units: Sequence[Unit], shards: Shards, bar: tqdm) -> None:
        """Draw and score every unit, and keep it as a shard; `bar` is moved by one for each."""
        ...


@dataclass(frozen=True)
class PoolMaker:
    """Draws and scores pools of one task: the same prompts, rewards and sampling for every policy.

    Attributes:
        shards: where shards are kept; `pools` in the cache unless given.
        engine: who draws what is missing; this process unless given.
    """

    cache: Path
    base: Policy
    judges: Mapping[str, Judge]
    sampling: SamplingConfig
    prompts: Sequence[Sequence[int]]
    shards: Shards | None = None
    engine: Engine | None = None

    def pool(self, policy: Policy, num_candidates: int, seed: int, progress: bool = True) -> Candidates:
        """The first `num_candidates` candidates of every prompt from `policy`: scored, with the base policy as reference.

        Shards that exist are read, missing ones drawn. A tuned policy's pool also holds its KL to the base for each candidate.
        Of several processes each draws its part of the blocks, then all read all shards.
        """
        return stacked(list(self.blocks(policy, num_candidates, seed, progress)))

    def blocks(self, policy: Policy, num_candidates: int, seed: int, progress: bool = True) -> Iterator[Candidates]:
        """The pool block by block, in the order of the prompts: what need not fit in memory at once."""
        if self.engine is not None:
            self._fill(policy, num_candidates, seed, progress)
        elif distributed.size() > 1:
            self._share_out(policy, num_candidates, seed, progress)
        recipe = self._recipe(policy, seed)
        with self._bar(policy, num_candidates, len(self._blocks), progress) as bar:
            for block in self._blocks:
                part = self._block(recipe, block, num_candidates)
                bar.update()
                yield part

    def missing(self, policy: Policy, num_candidates: int, seed: int) -> list[Unit]:
        """The shards that are not there yet, in order."""
        recipe = self._recipe(policy, seed)
        units = [self._units(recipe, block, num_candidates) for block in self._blocks]
        return [unit for block in units for unit, there in block if not there]

    def sizes(self, policy: Policy, num_candidates: int, seed: int) -> Iterator[int]:
        """Bytes of every shard of a pool that is there, in order."""
        recipe = self._recipe(policy, seed)
        for block in self._blocks:
            units = self._units(recipe, block, num_candidates)
            yield from (self.store.size(unit.key, unit.candidates) for unit, there in units if there)

    @property
    def store(self) -> Shards:
        """Where the shards are."""
        return LocalShards(self.cache / "pools") if self.shards is None else self.shards

    @property
    def _blocks(self) -> list[range]:
        return [range(b, min(b + PROMPT_BLOCK, len(self.prompts))) for b in range(0, len(self.prompts), PROMPT_BLOCK)]

    def _recipe(self, policy: Policy, seed: int) -> Recipe:
        device = policy.model.device.type if self.engine is None else self.engine.device
        name = "" if self.engine is None else self.engine.name
        return Recipe(policy, self.base, self.judges, self.sampling, seed, device, name)

    def _bar(self, policy: Policy, num_candidates: int, total: int, progress: bool) -> tqdm:
        label = "base" if policy.digest == self.base.digest else policy.name
        described = f"{num_candidates} candidates a prompt ({label})"
        return tqdm(total=total, desc=described, disable=None if progress and distributed.first() else True)

    def _fill(self, policy: Policy, num_candidates: int, seed: int, progress: bool) -> None:
        assert self.engine is not None
        units = self.missing(policy, num_candidates, seed)
        if units:
            with self._bar(policy, num_candidates, len(units), progress) as bar:
                self.engine.fill(self._recipe(policy, seed), units, self.store, bar)

    def _share_out(self, policy: Policy, num_candidates: int, seed: int, progress: bool) -> None:
        """The blocks go round the processes; what one would draw, bit for bit."""
        recipe, own = self._recipe(policy, seed), self._blocks[distributed.rank() :: distributed.size()]
        with self._bar(policy, num_candidates, len(own), progress) as bar:
            for block in own:
                self._block(recipe, block, num_candidates)
                bar.update()
        distributed.barrier()

    def _units(self, recipe: Recipe, block: range, num_candidates: int) -> list[tuple[Unit, bool]]:
        """The shards of a block, and whether each is there."""
        prompts = [list(self.prompts[p]) for p in block]
        key = recipe.key(prompts, block.start)
        parts = pieces(self.store.found(key), num_candidates, MOST_CANDIDATES)
        return [(Unit(key, prompts, block, candidates), there) for candidates, there in parts]

    def _block(self, recipe: Recipe, block: range, num_candidates: int) -> Candidates:
        pool: Candidates | None = None
        for unit, there in self._units(recipe, block, num_candidates):
            if there:
                part = self._loaded(recipe, unit)
            else:
                part = recipe.scored(unit, recipe.drawn(unit))
                self.store.save(unit.key, unit.candidates, part)
            pool = part if pool is None else pool.extended(part)
        assert pool is not None
        share = num_candidates / pool.num_candidates
        part = pool.first(num_candidates)
        spent = {key: pool.metadata[key] * share for key in ("seconds", "scoring_seconds")}
        kept = {key: value for key, value in part.metadata.items() if key != _TOLD}
        return replace(part, metadata={**kept, **spent, "tokens": int(part.lengths.sum())})

    def _loaded(self, recipe: Recipe, unit: Unit) -> Candidates:
        """A shard, which must be one of this configuration: a folder that was copied or renamed can hold others."""
        part = self.store.load(unit.key, unit.candidates)
        wanted = recipe.told(unit.prompts, unit.prompt_ids.start)
        told = part.metadata.get(_TOLD, wanted)
        others = [f"{name}={told.get(name)}, here {name}={value}" for name, value in wanted.items() if told.get(name) != value]
        if [list(ids) for ids in part.prompt_token_ids] != unit.prompts and not others:
            others = ["other prompts"]
        if others:
            path = self.store.path(unit.key, unit.candidates)
            raise UserError(
                f"{path} is a shard of another configuration ({'; '.join(others)}): delete its folder, or choose "
                "a new one with cache=FOLDER or engine.shards=FOLDER"
            )
        return part
