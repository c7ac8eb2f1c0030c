"""Candidates: every response drawn for every prompt, with what is known about each. Drawn once, read many times."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bon.candidate_files import Ragged, Table, load_table, save_table, table_bytes, table_from_bytes
from bon.checks import json_values, owned

#: Columns of every file of a pool.
_COLUMNS = (
    "prompt_id", "candidate_id", "prompt", "response", "prompt_token_ids", "token_ids", "length", "logprob", "raw_logprob",
)  # fmt: skip


class Rule(Protocol):
    """What `Candidates.select` applies; the rules are in `bon.selection`."""

    def indices(self, candidates: Candidates, rng: np.random.Generator | None = None) -> NDArray[np.int_]:
        """The candidates chosen for every prompt [P, k]."""
        ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """P prompts with N candidates each.

    Attributes:
        prompts: [P] the prompts as text.
        prompt_token_ids: [P] the prompts as token ids, without padding.
        texts: [P, N] the responses as text (object array), cut at the first end-of-sequence token.
        token_ids: [P, N, T] response token ids; entries at and beyond `lengths` are padding and mean nothing.
        lengths: [P, N] response tokens, the end-of-sequence token included.
        logprobs: [P, N] log-probability of the response under the distribution it was drawn from (temperature and all other
            warping applied), summed over response tokens, in nats.
        raw_logprobs: [P, N] the same under the model without any warping.
        ref_logprobs: [P, N] the same as `logprobs` under the reference policy, or None while unknown.
        scores: name -> [P, N] rewards, for example "proxy" and "gold".
        metadata: what made this pool: sampling settings, policy, seed, tokens, seconds; kept as JSON values.

    A pool owns its arrays, which cannot be written to: what is done to the arrays that it was made from changes no pool.

    Raises:
        ValueError: two fields disagree about P, N or T, a length lies outside 1..T, or metadata is no JSON.
    """

    prompts: Sequence[str]
    prompt_token_ids: Sequence[Sequence[int]]
    texts: NDArray[np.object_]
    token_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    logprobs: NDArray[np.float64]
    raw_logprobs: NDArray[np.float64]
    ref_logprobs: NDArray[np.float64] | None = None
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._own()
        if self.token_ids.ndim != 3:
            raise ValueError(f"token_ids must be [prompts, candidates, tokens], got shape {self.token_ids.shape}")
        shape = self.token_ids.shape[:2]
        columns = {"texts": self.texts, "lengths": self.lengths, "logprobs": self.logprobs, "raw_logprobs": self.raw_logprobs}
        if self.ref_logprobs is not None:
            columns["ref_logprobs"] = self.ref_logprobs
        columns.update({f"scores[{name!r}]": values for name, values in self.scores.items()})
        for name, values in columns.items():
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, but token_ids says [prompts, candidates] = {shape}")
        if not len(self.prompts) == len(self.prompt_token_ids) == shape[0]:
            raise ValueError(
                f"{len(self.prompts)} prompts and {len(self.prompt_token_ids)} prompt_token_ids, but {shape[0]} rows"
            )
        if self.lengths.size and not (self.lengths.min() >= 1 and self.lengths.max() <= self.token_ids.shape[2]):
            low, high = self.lengths.min(), self.lengths.max()
            raise ValueError(f"lengths must lie in 1..{self.token_ids.shape[2]}, got {low}..{high}")

    def _own(self) -> None:
        """Take the arrays as the pool's own, and metadata as JSON."""
        kinds = {
            "texts": object,
            "token_ids": np.int32,
            "lengths": np.int32,
            "logprobs": np.float64,
            "raw_logprobs": np.float64,
        }
        own: dict[str, Any] = {name: owned(name, getattr(self, name), kind) for name, kind in kinds.items()}
        own["prompts"] = list(self.prompts)
        own["prompt_token_ids"] = [list(ids) for ids in self.prompt_token_ids]
        if self.ref_logprobs is not None:
            own["ref_logprobs"] = owned("ref_logprobs", self.ref_logprobs, np.float64)
        own["scores"] = {name: owned(f"scores[{name!r}]", values, np.float64) for name, values in self.scores.items()}
        own["metadata"] = json_values(self.metadata, "metadata")
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def num_prompts(self) -> int:
        """P."""
        return self.token_ids.shape[0]

    @property
    def num_candidates(self) -> int:
        """N."""
        return self.token_ids.shape[1]

    @property
    def full_texts(self) -> list[list[str]]:
        """[P][N] prompt and response as one text: what a reward reads."""
        return [[prompt + text for text in row] for prompt, row in zip(self.prompts, self.texts, strict=True)]

    def first(self, n: int) -> Candidates:
        """The pool of the first n candidates of every prompt.

        Raises:
            ValueError: n is not in 1..N.
        """
        if not 1 <= n <= self.num_candidates:
            raise ValueError(f"n must lie in 1..{self.num_candidates} (the candidates drawn), got {n}")
        return self._map(lambda array: array[:, :n])

    def take(self, indices: NDArray[np.int_]) -> Candidates:
        """The candidates at `indices` [P, k] of every prompt, in that order, with every column moved together."""
        rows = np.arange(self.num_prompts)[:, None]
        return self._map(lambda array: array[rows, indices], metadata=_selected(self.metadata))

    def rows(self, positions: NDArray[np.int_] | NDArray[np.bool_]) -> Candidates:
        """The pool of the prompts at `positions` (indices in any order, or a mask [P])."""
        indices = np.arange(self.num_prompts)[positions].tolist()
        return self._map(
            lambda array: array[indices],
            prompts=[self.prompts[i] for i in indices],
            prompt_token_ids=[self.prompt_token_ids[i] for i in indices],
            metadata=_selected(self.metadata),
        )

    def select(self, rule: Rule, rng: np.random.Generator | None = None) -> Candidates:
        """What a rule of `bon.selection` returns from this pool: [P, 1], or [P, k] for `TopK(k)`. Nothing is drawn again.

        Args:
            rule: for example `BestOfN()` or `SoftBestOfN(temperature=0.5)`.
            rng: for rules that choose at random; the others do not touch it.

        Raises:
            ValueError: the pool lacks a column that the rule reads, or the rule is random and there is no `rng`.
        """
        return self.take(rule.indices(self, rng))

    def with_scores(self, **scores: NDArray[np.floating]) -> Candidates:
        """A copy with these scores [P, N] added or replaced."""
        return replace(self, scores={**self.scores, **scores})

    def with_ref_logprobs(self, ref_logprobs: NDArray[np.floating]) -> Candidates:
        """A copy with the reference policy's log-probabilities [P, N]."""
        return replace(self, ref_logprobs=ref_logprobs)

    def extended(self, more: Candidates) -> Candidates:
        """This pool with further candidates of the same prompts behind its own.

        Scores and reference log-probabilities survive only where both sides have them.

        Raises:
            ValueError: the prompts differ.
        """
        if [list(ids) for ids in self.prompt_token_ids] != [list(ids) for ids in more.prompt_token_ids]:
            raise ValueError("cannot extend a pool with candidates of other prompts")
        width = max(self.token_ids.shape[2], more.token_ids.shape[2])

        both_ref = self.ref_logprobs is not None and more.ref_logprobs is not None
        return replace(
            self,
            texts=np.concatenate([self.texts, more.texts], axis=1),
            token_ids=np.concatenate([_widened(self.token_ids, width), _widened(more.token_ids, width)], axis=1),
            lengths=np.concatenate([self.lengths, more.lengths], axis=1),
            logprobs=np.concatenate([self.logprobs, more.logprobs], axis=1),
            raw_logprobs=np.concatenate([self.raw_logprobs, more.raw_logprobs], axis=1),
            ref_logprobs=np.concatenate([self.ref_logprobs, more.ref_logprobs], axis=1) if both_ref else None,
            scores={
                name: np.concatenate([values, more.scores[name]], axis=1)
                for name, values in self.scores.items()
                if name in more.scores
            },
            metadata=_summed(self.metadata, more.metadata),
        )

    def _map(self, pick: Callable[[NDArray[Any]], NDArray[Any]], **changes: Any) -> Candidates:
        return replace(
            self,
            texts=pick(self.texts),
            token_ids=pick(self.token_ids),
            lengths=pick(self.lengths),
            logprobs=pick(self.logprobs),
            raw_logprobs=pick(self.raw_logprobs),
            ref_logprobs=None if self.ref_logprobs is None else pick(self.ref_logprobs),
            scores={name: pick(values) for name, values in self.scores.items()},
            **changes,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, a row a candidate. The file appears whole or not at all.

        Columns: `prompt_id`, `candidate_id`, `prompt`, `response`, `prompt_token_ids`, `token_ids`, `length`, `logprob`,
        `raw_logprob`, `ref_logprob` where known, and one column for each score. `metadata` goes into the file's metadata.

        Raises:
            ValueError: a score has the name of another column.
        """
        save_table(self._table(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Candidates:
        """Read what `save` wrote, whatever the order of its rows.

        Raises:
            ValueError: the file is not such a file, is damaged, or lacks a column or a row.
        """
        return cls._from_table(load_table(path), str(path))

    def to_bytes(self) -> bytes:
        """Return the file that `save` writes: for an object store, or to send to another process."""
        return table_bytes(self._table())

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "these bytes") -> Candidates:
        """Read what `to_bytes` gave; `origin` is where it came from, for messages. Errors as of `load`."""
        return cls._from_table(table_from_bytes(data, origin), origin)

    def _table(self) -> Table:
        clash = set(self.scores) & {*_COLUMNS, "ref_logprob"}
        if clash:
            raise ValueError(f"a score cannot be named {sorted(clash)[0]!r}: the file has a column of that name")
        prompts, candidates = self.lengths.shape
        prompt_id = np.repeat(np.arange(prompts, dtype=np.int32), candidates)
        prompt_lengths = np.array([len(ids) for ids in self.prompt_token_ids], dtype=np.int64)
        prompt_ids = [np.tile(np.asarray(ids, dtype=np.int32), candidates) for ids in self.prompt_token_ids]
        kept = np.arange(self.token_ids.shape[2]) < self.lengths[..., None]
        columns: dict[str, Any] = {
            "prompt_id": prompt_id,
            "candidate_id": np.tile(np.arange(candidates, dtype=np.int32), prompts),
            "prompt": np.array(self.prompts, dtype=object)[prompt_id],
            "response": self.texts.reshape(-1),
            "prompt_token_ids": Ragged(np.concatenate([np.empty(0, np.int32), *prompt_ids]), prompt_lengths[prompt_id]),
            "token_ids": Ragged(self.token_ids[kept], self.lengths.reshape(-1)),
            "length": self.lengths.reshape(-1),
            "logprob": self.logprobs.reshape(-1),
            "raw_logprob": self.raw_logprobs.reshape(-1),
        }
        if self.ref_logprobs is not None:
            columns["ref_logprob"] = self.ref_logprobs.reshape(-1)
        columns.update({name: values.reshape(-1) for name, values in self.scores.items()})
        header = {"prompts": prompts, "candidates": candidates, "scores": list(self.scores)}
        return Table(columns, header, dict(self.metadata))

    @classmethod
    def _from_table(cls, table: Table, origin: str) -> Candidates:
        prompts, candidates, names = table.header["prompts"], table.header["candidates"], table.header["scores"]
        missing = [name for name in (*_COLUMNS, *names) if name not in table.columns]
        if missing:
            raise ValueError(f"{origin} is not a whole candidates file: it has no column {missing[0]!r}; delete it")
        place = table.columns["prompt_id"].astype(np.int64) * candidates + table.columns["candidate_id"]
        order = np.argsort(place, kind="stable")
        if not np.array_equal(place[order], np.arange(prompts * candidates)):
            raise ValueError(
                f"{origin} is not a whole candidates file: {prompts} prompts with {candidates} candidates each need as many "
                "different rows; delete it"
            )

        def column(name: str) -> NDArray[Any]:
            return table.columns[name][order].reshape(prompts, candidates)

        lengths = column("length")
        token_ids = np.zeros((prompts, candidates, int(lengths.max(initial=1))), dtype=np.int32)
        token_ids[np.arange(token_ids.shape[2]) < lengths[..., None]] = table.columns["token_ids"].taken(order).values
        firsts = order.reshape(prompts, candidates)[:, 0]
        of_prompts = table.columns["prompt_token_ids"].taken(firsts)
        return cls(
            prompts=table.columns["prompt"][firsts].tolist(),
            prompt_token_ids=[ids.tolist() for ids in np.split(of_prompts.values, np.cumsum(of_prompts.lengths)[:-1])],
            texts=column("response"),
            token_ids=token_ids,
            lengths=lengths,
            logprobs=column("logprob"),
            raw_logprobs=column("raw_logprob"),
            ref_logprobs=column("ref_logprob") if "ref_logprob" in table.columns else None,
            scores={name: column(name) for name in names},
            metadata=table.metadata,
        )


def stacked(pools: Sequence[Candidates]) -> Candidates:
    """Pools of different prompts, with equally many candidates each, one below the other.

    Scores and reference log-probabilities survive only where all have them; the metadata is the first pool's, with what was
    spent added up.

    Raises:
        ValueError: no pool, or different numbers of candidates.
    """
    if not pools or len({pool.num_candidates for pool in pools}) != 1:
        raise ValueError(f"pools to stack must have equally many candidates, got {[pool.num_candidates for pool in pools]}")
    first, width = pools[0], max(pool.token_ids.shape[2] for pool in pools)
    known = [pool.ref_logprobs for pool in pools if pool.ref_logprobs is not None]
    metadata = dict(first.metadata)
    for pool in pools[1:]:
        metadata = _summed(metadata, pool.metadata)
    return Candidates(
        prompts=[prompt for pool in pools for prompt in pool.prompts],
        prompt_token_ids=[ids for pool in pools for ids in pool.prompt_token_ids],
        texts=np.concatenate([pool.texts for pool in pools]),
        token_ids=np.concatenate([_widened(pool.token_ids, width) for pool in pools]),
        lengths=np.concatenate([pool.lengths for pool in pools]),
        logprobs=np.concatenate([pool.logprobs for pool in pools]),
        raw_logprobs=np.concatenate([pool.raw_logprobs for pool in pools]),
        ref_logprobs=np.concatenate(known) if len(known) == len(pools) else None,
        scores={
            name: np.concatenate([pool.scores[name] for pool in pools])
            for name in first.scores
            if all(name in pool.scores for pool in pools)
        },
        metadata=metadata,
    )


def _widened(token_ids: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    return np.pad(token_ids, ((0, 0), (0, 0), (0, width - token_ids.shape[2])))


def _selected(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a selection, without what `BestOfNSampler.grow` goes by: which candidates of which prompts come next."""
    return {name: value for name, value in metadata.items() if name != "response_lengths"}


_SPENT = ("tokens", "seconds", "scoring_seconds")


def _summed(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of two joined pools: what was spent adds up, everything else is the first pool's."""
    spent = {key: first.get(key, 0) + second.get(key, 0) for key in _SPENT if key in first or key in second}
    return {**first, **spent}
