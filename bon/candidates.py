"""Candidates: every response drawn for every prompt, with what is known about each. Drawn once, read many times."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bon.candidate_files import load_table, save_table, table_bytes, table_from_bytes
from bon.outside_pools import FromElsewhere
from bon.pool_columns import ARRAYS, TOKEN_FIELDS, fields_of, joined, owned_fields, table_of


class MissingColumnError(AttributeError, ValueError):
    """A column was read that this pool, made from texts, does not have."""


class Rule(Protocol):
    """What `Candidates.select` applies; the rules are in `bon.selection`."""

    def indices(self, candidates: Candidates, rng: np.random.Generator | None = None) -> NDArray[np.int_]:
        """The candidates chosen for every prompt [P, k]."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Candidates(FromElsewhere):
    """P prompts with N candidates each.

    A pool from elsewhere (`from_texts`, `from_vllm`, `from_jsonl`) may lack `prompt_token_ids`, `token_ids`, `lengths`,
    `logprobs` and `raw_logprobs`: reading one of them is then a `MissingColumnError`, and everything else works.

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
        scores: name -> [P, N] rewards, for example "proxy" and "gold"; NaN for candidates that the reward abstained from.
        metadata: what made this pool: sampling settings, policy, seed, tokens, seconds; kept as JSON values.
        finished: [P, N] whether the response ended by itself, or None while unknown. False: it was cut where no more tokens
            were allowed. Pools that were drawn here know it from the tokens that end a text (`metadata["sampling"]`).
        reasons: name -> [P, N] what that reward said of its score: texts, or None (object array).

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
    finished: NDArray[np.bool_] | None = None
    reasons: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in owned_fields(vars(self)).items():
            object.__setattr__(self, name, value)
        for name in TOKEN_FIELDS:
            if vars(self)[name] is None:  # reading it is an error from here on
                object.__delattr__(self, name)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in TOKEN_FIELDS:
                raise MissingColumnError(
                    f"this pool has no {TOKEN_FIELDS[name]} ({name}): it was made from texts; draw it by "
                    "generate_candidates, or give them to Candidates"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        scores = ", ".join(self.scores) or "none"
        return f"{type(self).__name__}({self.num_prompts} prompts, {self.num_candidates} candidates each, scores: {scores})"

    @property
    def num_prompts(self) -> int:
        """P."""
        return self.texts.shape[0]

    @property
    def num_candidates(self) -> int:
        """N."""
        return self.texts.shape[1]

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
            prompt_token_ids=[self.prompt_token_ids[i] for i in indices] if self.has("prompt_token_ids") else None,
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
        return self._with(scores={**self.scores, **scores})

    def with_reasons(self, **reasons: NDArray[np.object_]) -> Candidates:
        """A copy with what these rewards said of their scores [P, N]."""
        return self._with(reasons={**self.reasons, **reasons})

    def with_ref_logprobs(self, ref_logprobs: NDArray[np.floating]) -> Candidates:
        """A copy with the reference policy's log-probabilities [P, N]."""
        return self._with(ref_logprobs=ref_logprobs)

    def with_metadata(self, **metadata: Any) -> Candidates:
        """A copy with these entries of the metadata added or replaced."""
        return self._with(metadata={**self.metadata, **metadata})

    def has(self, column: str) -> bool:
        """Whether the pool has this column: one made from texts may lack those of tokens, any pool the optional ones."""
        return vars(self).get(column) is not None

    def extended(self, more: Candidates) -> Candidates:
        """This pool with further candidates of the same prompts behind its own.

        What only one side has does not survive: scores, reasons, reference log-probabilities, columns of tokens.

        Raises:
            ValueError: the prompts differ.
        """
        if _identity(self) != _identity(more):
            raise ValueError("cannot extend a pool with candidates of other prompts")
        return self._with(**joined([self._fields(), more._fields()], axis=1))

    def _fields(self) -> dict[str, Any]:
        """Every field by its name, None where the pool lacks it."""
        return {part.name: vars(self).get(part.name) for part in fields(self)}

    def _with(self, **changes: Any) -> Candidates:
        """A copy with these fields replaced, of a pool that may lack some."""
        return type(self)(**{**self._fields(), **changes})

    def _map(self, pick: Callable[[NDArray[Any]], NDArray[Any]], **changes: Any) -> Candidates:
        return self._with(
            **{name: pick(vars(self)[name]) for name in ARRAYS if self.has(name)},
            scores={name: pick(values) for name, values in self.scores.items()},
            reasons={name: pick(values) for name, values in self.reasons.items()},
            **changes,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, a row a candidate. The file appears whole or not at all.

        Columns: `prompt_id`, `candidate_id`, `prompt`, `response`, `prompt_token_ids`, `token_ids`, `length`, `logprob`,
        `raw_logprob`, `ref_logprob` where known, `finished` where the tokens do not tell it, one column for each score, and
        `NAME_reason` for its reasons. What the pool lacks is left out. `metadata` goes into the file's metadata.

        Raises:
            ValueError: a score has the name of another column.
        """
        save_table(table_of(self._fields()), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Candidates:
        """Read what `save` wrote, whatever the order of its rows.

        Raises:
            ValueError: the file is not such a file, is damaged, or lacks a column or a row.
        """
        return cls(**fields_of(load_table(path), str(path)))

    def to_bytes(self) -> bytes:
        """Return the file that `save` writes: for an object store, or to send to another process."""
        return table_bytes(table_of(self._fields()))

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "these bytes") -> Candidates:
        """Read what `to_bytes` gave; `origin` is where it came from, for messages. Errors as of `load`."""
        return cls(**fields_of(table_from_bytes(data, origin), origin))


def stacked(pools: Sequence[Candidates]) -> Candidates:
    """Pools of different prompts, with equally many candidates each, one below the other.

    Scores, reasons, reference log-probabilities and columns of tokens survive only where all have them; the metadata is the
    first pool's, with what was spent added up.

    Raises:
        ValueError: no pool, or different numbers of candidates.
    """
    if not pools or len({pool.num_candidates for pool in pools}) != 1:
        raise ValueError(f"pools to stack must have equally many candidates, got {[pool.num_candidates for pool in pools]}")
    tokens = all(pool.has("prompt_token_ids") for pool in pools)
    return Candidates(
        prompts=[prompt for pool in pools for prompt in pool.prompts],
        prompt_token_ids=[ids for pool in pools for ids in pool.prompt_token_ids] if tokens else None,  # type: ignore[arg-type]
        **joined([pool._fields() for pool in pools], axis=0),
    )


def _identity(pool: Candidates) -> list[list[int]] | list[str]:
    """What says that two pools have the same prompts."""
    return [list(ids) for ids in pool.prompt_token_ids] if pool.has("prompt_token_ids") else list(pool.prompts)


def _selected(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a selection, without what `BestOfNSampler.grow` goes by: which candidates of which prompts come next."""
    return {name: value for name, value in metadata.items() if name != "response_lengths"}
