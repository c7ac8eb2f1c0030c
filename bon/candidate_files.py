"""The Parquet file of a pool: a row a candidate, whole or not at all."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bon.candidates import Candidates

_FORMAT = "bon.candidates.1"
_FIXED_COLUMNS = (
    "prompt_id", "candidate_id", "prompt", "response", "prompt_token_ids", "token_ids", "length", "logprob", "raw_logprob",
    "ref_logprob",
)  # fmt: skip


def save_candidates(pool: Candidates, path: str | os.PathLike[str]) -> None:
    """What `Candidates.save` does."""
    table = _table(pool)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        _write(table, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def candidates_bytes(pool: Candidates) -> bytes:
    """The file that `Candidates.save` writes, as bytes: for an object store, or to send to another process."""
    buffer = io.BytesIO()
    _write(_table(pool), buffer)
    return buffer.getvalue()


def candidates_from_bytes(data: bytes, origin: str = "these bytes") -> Candidates:
    """What `candidates_bytes` wrote; `origin` is where it came from, for the message when it is not that.

    Raises:
        ValueError: the bytes are no candidates file.
    """
    return _read(io.BytesIO(data), origin)


def _write(table: Any, file: Any) -> None:
    _pyarrow_parquet().write_table(table, file, compression="zstd")


def _table(pool: Candidates) -> Any:
    _pyarrow_parquet()
    import pyarrow as pa

    clash = set(pool.scores) & set(_FIXED_COLUMNS)
    if clash:
        raise ValueError(f"a score cannot be named {sorted(clash)[0]!r}: the file has a column of that name")
    prompts, candidates = pool.token_ids.shape[:2]
    prompt_id = np.repeat(np.arange(prompts, dtype=np.int32), candidates)
    lengths = pool.lengths.reshape(-1)
    kept = np.arange(pool.token_ids.shape[2]) < pool.lengths[..., None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns: dict[str, Any] = {
        "prompt_id": prompt_id,
        "candidate_id": np.tile(np.arange(candidates, dtype=np.int32), prompts),
        "prompt": pa.array(pool.prompts, pa.string()).take(pa.array(prompt_id)),
        "response": pa.array(pool.texts.reshape(-1).tolist(), pa.string()),
        "prompt_token_ids": pa.array([list(ids) for ids in pool.prompt_token_ids], pa.list_(pa.int32())).take(
            pa.array(prompt_id)
        ),
        "token_ids": pa.ListArray.from_arrays(offsets, pool.token_ids[kept].astype(np.int32)),
        "length": lengths.astype(np.int32),
        "logprob": pool.logprobs.reshape(-1),
        "raw_logprob": pool.raw_logprobs.reshape(-1),
    }
    if pool.ref_logprobs is not None:
        columns["ref_logprob"] = pool.ref_logprobs.reshape(-1)
    columns.update({name: values.reshape(-1) for name, values in pool.scores.items()})
    header = {"format": _FORMAT, "prompts": prompts, "candidates": candidates, "scores": list(pool.scores)}
    return pa.table(columns).replace_schema_metadata(
        {"bon": json.dumps(header), "bon.metadata": json.dumps(dict(pool.metadata))}
    )


def load_candidates(path: str | os.PathLike[str]) -> Candidates:
    """What `Candidates.load` does."""
    return _read(path, str(path))


def _read(file: Any, path: str) -> Candidates:
    parquet = _pyarrow_parquet()
    try:
        table = parquet.read_table(file)
        header = json.loads(table.schema.metadata[b"bon"])
        metadata = json.loads(table.schema.metadata[b"bon.metadata"])
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a candidates file, or is damaged ({type(error).__name__}); delete it") from error
    if header["format"] != _FORMAT:
        raise ValueError(f"{path} has format {header['format']!r}, this version reads {_FORMAT!r}; delete it")
    prompts, candidates = header["prompts"], header["candidates"]

    def column(name: str) -> NDArray[Any]:
        return table[name].to_numpy().reshape(prompts, candidates)

    lengths = column("length").astype(np.int32)
    token_ids = np.zeros((prompts, candidates, int(lengths.max(initial=1))), dtype=np.int32)
    flat = table["token_ids"].combine_chunks().flatten().to_numpy()
    token_ids[np.arange(token_ids.shape[2]) < lengths[..., None]] = flat
    first_rows = np.arange(prompts) * candidates
    return Candidates(
        prompts=table["prompt"].take(first_rows).to_pylist(),
        prompt_token_ids=table["prompt_token_ids"].take(first_rows).to_pylist(),
        texts=np.array(table["response"].to_pylist(), dtype=object).reshape(prompts, candidates),
        token_ids=token_ids,
        lengths=lengths,
        logprobs=column("logprob"),
        raw_logprobs=column("raw_logprob"),
        ref_logprobs=column("ref_logprob") if "ref_logprob" in table.column_names else None,
        scores={name: column(name) for name in header["scores"]},
        metadata=metadata,
    )


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError("saving and loading candidates needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet
