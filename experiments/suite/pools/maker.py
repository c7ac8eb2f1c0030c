"""Candidate pools: drawn once, scored once, kept in shards, grown on demand.

A shard holds a block of prompts and a range of candidates, with every score. Its folder is named by a hash of everything that
determines the draws and the scores, so nothing that was computed is computed again, and nothing stale is ever read. Every
engine draws the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from bon import Candidates
from bon.candidates import stacked
from suite.config.run import SamplingConfig
from suite.models.policies import Policy
from suite.models.rewards import Judge
from suite.pools.recipe import MOST_CANDIDATES, PROMPT_BLOCK, TOLD, Engine, Recipe, Unit
from suite.pools.shards import LocalShards, Shards, pieces
from suite.runtime import distributed
from suite.runtime.errors import UserError


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
        """Place of the shards."""
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
        kept = {key: value for key, value in part.metadata.items() if key != TOLD}
        return replace(part, metadata={**kept, **spent, "tokens": int(part.lengths.sum())})

    def _loaded(self, recipe: Recipe, unit: Unit) -> Candidates:
        """A shard, which must be one of this configuration: a folder that was copied or renamed can hold others."""
        part = self.store.load(unit.key, unit.candidates)
        wanted = recipe.told(unit.prompts, unit.prompt_ids.start)
        told = part.metadata.get(TOLD, wanted)
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
