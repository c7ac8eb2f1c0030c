"""Parquet files of named columns with a header, whole or not at all. What the columns mean is their owner's affair."""

from __future__ import annotations

import io
import json
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FORMAT = "bon.candidates.1"


class Ragged(NamedTuple):
    """A column of lists of whole numbers: all of them in one array, and how many belong to each row [R]."""

    values: NDArray[np.int32]
    lengths: NDArray[np.integer]

    def taken(self, rows: NDArray[np.integer]) -> Ragged:
        """Return these rows, in this order."""
        lengths = self.lengths[rows].astype(np.int64)
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Ragged(self.values[np.repeat(starts, lengths) + inside], lengths)


class Table(NamedTuple):
    """What a file holds.

    Attributes:
        columns: name -> numbers [R], texts (object array [R]), or a `Ragged` column.
        header: what the owner needs to read the columns, as JSON.
        metadata: what made them, as JSON.
    """

    columns: dict[str, Any]
    header: dict[str, Any]
    metadata: dict[str, Any]


def save_table(table: Table, path: str | os.PathLike[str]) -> None:
    """Write a file. It appears whole or not at all, with the permissions of the one that it replaces, if there is one."""
    ready = _arrow(table)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less what the user's umask takes away
    try:
        if path.exists():
            os.chmod(temporary, path.stat().st_mode & 0o777)
        _write(ready, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def table_bytes(table: Table) -> bytes:
    """Return the file that `save_table` writes: for an object store, or to send to another process."""
    buffer = io.BytesIO()
    _write(_arrow(table), buffer)
    return buffer.getvalue()


def load_table(path: str | os.PathLike[str]) -> Table:
    """Read what `save_table` wrote.

    Raises:
        ValueError: the file is not such a file.
    """
    return _read(path, str(path))


def table_from_bytes(data: bytes, origin: str) -> Table:
    """Read what `table_bytes` wrote; `origin` is where it came from, for the message when it is not that.

    Raises:
        ValueError: the bytes are no such file.
    """
    return _read(io.BytesIO(data), origin)


def _write(table: Any, file: Any) -> None:
    _pyarrow_parquet().write_table(table, file, compression="zstd", write_page_checksum=True)


def _arrow(table: Table) -> Any:
    _pyarrow_parquet()
    import pyarrow as pa

    def column(values: Any) -> Any:
        if isinstance(values, Ragged):
            offsets = np.concatenate([[0], np.cumsum(values.lengths)]).astype(np.int32)
            return pa.ListArray.from_arrays(offsets, values.values.astype(np.int32))
        return pa.array(values.tolist(), pa.string()) if values.dtype == object else pa.array(values)

    columns = {name: column(values) for name, values in table.columns.items()}
    header = {"format": _FORMAT, **table.header}
    return pa.table(columns).replace_schema_metadata({"bon": json.dumps(header), "bon.metadata": json.dumps(table.metadata)})


def _read(file: Any, origin: str) -> Table:
    parquet = _pyarrow_parquet()
    try:
        # Neither a folder named key=value nor a sidecar adds columns.
        found = parquet.ParquetFile(file, page_checksum_verification=True).read()
        header = json.loads(found.schema.metadata[b"bon"])
        metadata = json.loads(found.schema.metadata[b"bon.metadata"])
        columns = {name: _column(found[name].combine_chunks()) for name in found.column_names}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{origin} is not a candidates file, or is damaged ({type(error).__name__}); delete it") from error
    if header.get("format") != _FORMAT:
        raise ValueError(f"{origin} has format {header.get('format')!r}, this version reads {_FORMAT!r}; delete it")
    return Table(columns, header, metadata)


def _column(values: Any) -> Any:
    import pyarrow as pa

    if isinstance(values.type, pa.ListType):
        return Ragged(values.flatten().to_numpy(), values.value_lengths().to_numpy())
    return values.to_numpy(zero_copy_only=False)


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError("saving and loading candidates needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet
