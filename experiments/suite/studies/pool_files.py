"""Pools as compact Parquet: every number that an interval needs, no text. A row a candidate; whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from bon import Candidates
from suite.metrics.updates import training_curves
from suite.metrics.vocabulary import BASE_LOGPROB, MONTE_CARLO, PROXY_TOKENS, RAO_BLACKWELL
from suite.runtime.errors import UserError

_FACTS = b"bon.study"
_SCORES = ("proxy", "gold", MONTE_CARLO, RAO_BLACKWELL)
#: Columns that not every pool has.
_FURTHER = (PROXY_TOKENS, BASE_LOGPROB)
_FLOATS = ("logprob", "ref_logprob", *_SCORES)


def save_pool(pool: Candidates, path: Path, facts: Mapping[str, Any]) -> None:
    """Write one pool with its tokens; `facts` (JSON values) go into the file's metadata.

    The prompts themselves are among the facts. KL to the base policy is 0 where the pool has none: it is the base policy's.
    """
    flat = pool.token_ids[np.arange(pool.token_ids.shape[2]) < pool.lengths[..., None]]
    small = flat.astype(np.int16 if flat.max(initial=0) < 2**15 else np.int32)
    offsets = np.concatenate([[0], np.cumsum(pool.lengths.ravel())]).astype(np.int32)
    columns = _columns(pool)
    columns["token_ids"] = pa.ListArray.from_arrays(offsets, small)
    _write(columns, path, {**_shape(pool), "prompt_token_ids": [list(ids) for ids in pool.prompt_token_ids], **facts})


def load_pool(path: Path) -> tuple[Candidates, dict[str, Any]]:
    """Read what `save_pool` wrote: the pool, its texts empty, and the facts.

    Raises:
        UserError: the file is missing, damaged, or lacks a column.
    """
    table, facts = _read(path, ("token_ids",))
    prompts, candidates = facts["prompts"], facts["candidates"]
    lengths = table["length"].to_numpy().astype(np.int32).reshape(prompts, candidates)
    token_ids = np.zeros((prompts, candidates, int(lengths.max())), dtype=np.int32)
    token_ids[np.arange(token_ids.shape[2]) < lengths[..., None]] = table["token_ids"].combine_chunks().flatten().to_numpy()
    return _pool(table, slice(None), token_ids, facts["prompt_token_ids"], facts), facts


def save_checkpoints(pools: Mapping[int, Candidates], path: Path, facts: Mapping[str, Any]) -> None:
    """Write the pools of several steps, one below the other, without their tokens."""
    parts = [{"step": np.full(pool.lengths.size, step, np.int32), **_columns(pool)} for step, pool in pools.items()]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _write(columns, path, {**_shape(next(iter(pools.values()))), "steps": list(pools), **facts})


def load_checkpoints(path: Path, prompt_token_ids: Sequence[Sequence[int]]) -> dict[int, Candidates]:
    """Read what `save_checkpoints` wrote: step -> pool, its tokens all 0.

    Raises:
        UserError: the file is missing, damaged, or lacks a column.
    """
    table, facts = _read(path, ("step",))
    size = facts["prompts"] * facts["candidates"]
    found = {}
    for k, step in enumerate(facts["steps"]):
        rows = slice(k * size, (k + 1) * size)
        longest = int(table["length"].to_numpy()[rows].max())
        none = np.zeros((facts["prompts"], facts["candidates"], longest), dtype=np.int32)
        found[int(step)] = _pool(table, rows, none, prompt_token_ids, facts)
    return found


def read_facts(path: Path) -> dict[str, Any] | None:
    """The facts of a file of a study, without its rows; None where there is no such file, or it is damaged."""
    try:
        return dict(json.loads(parquet.read_schema(path).metadata[_FACTS]))
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def save_scores(blocks: Iterable[Candidates], path: Path, facts: Mapping[str, Any]) -> None:
    """Write the scores and lengths of a pool alone, which comes block by block: for pools that are large."""
    parts: list[dict[str, NDArray[Any]]] = []
    prompts, spent = 0, {"seconds": 0.0, "scoring_seconds": 0.0}
    for block in blocks:
        kept = ("prompt_id", "candidate_id", "length", *(name for name in ("proxy", "gold") if name in block.scores))
        columns = _columns(block)
        parts.append({name: columns[name] for name in kept})
        parts[-1]["prompt_id"] = parts[-1]["prompt_id"] + np.int32(prompts)
        prompts += block.num_prompts
        spent = {key: value + float(block.metadata[key]) for key, value in spent.items()}
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _write(columns, path, {"prompts": prompts, "candidates": block.num_candidates, **spent, **facts})


def save_curves(log: Sequence[Mapping[str, Any]], path: Path, facts: Mapping[str, Any]) -> None:
    """Write what is kept of a training's log, a row an update (see `suite.metrics.updates`)."""
    curves = training_curves(log)
    columns: dict[str, Any] = {name: values.astype(np.float32) for name, values in curves.items()}
    _write({**columns, "update": curves["update"].astype(np.int32)}, path, facts)


def _shape(pool: Candidates) -> dict[str, Any]:
    spent = {key: float(pool.metadata[key]) for key in ("seconds", "scoring_seconds")}
    return {"prompts": pool.num_prompts, "candidates": pool.num_candidates, **spent}


def _columns(pool: Candidates) -> dict[str, Any]:
    none = np.zeros(pool.lengths.shape)
    reference = pool.logprobs if pool.ref_logprobs is None else pool.ref_logprobs
    floats = {"logprob": pool.logprobs, "ref_logprob": reference, **{name: pool.scores.get(name, none) for name in _SCORES}}
    further = {name: pool.scores[name] for name in _FURTHER if name in pool.scores}
    return {
        "prompt_id": np.repeat(np.arange(pool.num_prompts, dtype=np.int32), pool.num_candidates),
        "candidate_id": np.tile(np.arange(pool.num_candidates, dtype=np.int32), pool.num_prompts),
        "length": pool.lengths.ravel().astype(np.int16),
        **{name: values.ravel().astype(np.float32) for name, values in (floats | further).items()},
    }


def _pool(
    table: pa.Table, rows: slice, token_ids: NDArray[np.int32], prompts: Sequence[Sequence[int]], facts: Mapping[str, Any]
) -> Candidates:
    shape = token_ids.shape[:2]

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(table[name].to_numpy()[rows].astype(np.float64).reshape(shape))

    logprobs = column("logprob")
    return Candidates(
        prompts=[""] * shape[0],
        prompt_token_ids=prompts,
        texts=np.full(shape, "", dtype=object),
        token_ids=token_ids,
        lengths=table["length"].to_numpy()[rows].astype(np.int32).reshape(shape),
        logprobs=logprobs,
        raw_logprobs=logprobs,
        ref_logprobs=column("ref_logprob"),
        scores={name: column(name) for name in (*_SCORES, *_FURTHER) if name in table.column_names},
        metadata={key: facts[key] for key in ("seconds", "scoring_seconds")},
    )


def _write(columns: Mapping[str, Any], path: Path, facts: Mapping[str, Any]) -> None:
    table = pa.table(dict(columns)).replace_schema_metadata({_FACTS: json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        parquet.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=12,
            use_dictionary=["prompt_id", "candidate_id", "length", "step", "token_ids.list.element"],
            use_byte_stream_split=[name for name in (*_FLOATS, *_FURTHER) if name in table.column_names],
        )
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read(path: Path, more: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        table = parquet.read_table(path)
        facts = json.loads(table.schema.metadata[_FACTS])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a pool of a study, or is damaged ({type(error).__name__})") from None
    lacking = [name for name in ("prompt_id", "candidate_id", "length", *_FLOATS, *more) if name not in table.column_names]
    if lacking:
        raise UserError(f"{path} lacks the column {lacking[0]}")
    return table, facts
