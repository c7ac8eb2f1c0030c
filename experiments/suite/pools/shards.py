"""Where the shards of candidate pools are: a folder, or an object store behind any fsspec URL. A shard is whole or not there.

Below the place there is a folder for every key; in it the files `candidates-<first>-<past the last>.parquet`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bon import Candidates
from suite.runtime.errors import UserError, one_line
from suite.runtime.paths import located

#: Where the file system of a protocol comes from, for those that fsspec does not know to name.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class Shards(Protocol):
    """Somewhere that shards are kept. Goes to other processes, so it holds no open connection of its own."""

    def found(self, key: str) -> list[range]:
        """The candidates of every shard below a key, in order."""
        ...

    def load(self, key: str, candidates: range) -> Candidates:
        """One shard."""
        ...

    def save(self, key: str, candidates: range, pool: Candidates) -> int:
        """Keep a shard, over one of the same name; its size in bytes."""
        ...

    def size(self, key: str, candidates: range) -> int:
        """Bytes of a shard."""
        ...

    def path(self, key: str, candidates: range) -> str:
        """Return the place of a shard, for messages."""
        ...


@dataclass(frozen=True)
class LocalShards:
    """Shards below a folder."""

    folder: Path

    def found(self, key: str) -> list[range]:
        """The candidates of every shard below a key, in order."""
        return _ranges([path.name for path in (self.folder / key).glob("*.parquet")])

    def load(self, key: str, candidates: range) -> Candidates:
        """One shard."""
        return Candidates.load(self.path(key, candidates))

    def save(self, key: str, candidates: range, pool: Candidates) -> int:
        """Write a file beside its place and move it there; its size in bytes."""
        pool.save(self.path(key, candidates))
        return self.size(key, candidates)

    def size(self, key: str, candidates: range) -> int:
        """Bytes of a shard."""
        return Path(self.path(key, candidates)).stat().st_size

    def path(self, key: str, candidates: range) -> str:
        """The file."""
        return str(self.folder / key / _name(candidates))


@dataclass(frozen=True)
class RemoteShards:
    """Shards behind an fsspec URL. An object store shows an object once all of it is there."""

    system: Any
    root: str
    url: str

    def found(self, key: str) -> list[range]:
        """The candidates of every shard below a key, in order; nothing is remembered from earlier listings."""
        self.system.invalidate_cache()
        try:
            names = self.system.ls(f"{self.root}/{key}", detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._unreachable(error) from None
        return _ranges([name.rsplit("/", 1)[-1] for name in names])

    def load(self, key: str, candidates: range) -> Candidates:
        """One shard."""
        data = self.system.cat_file(f"{self.root}/{key}/{_name(candidates)}")
        return Candidates.from_bytes(data, self.path(key, candidates))

    def save(self, key: str, candidates: range, pool: Candidates) -> int:
        """Upload a shard in one piece; its size in bytes."""
        data = pool.to_bytes()
        try:
            self.system.pipe_file(f"{self.root}/{key}/{_name(candidates)}", data)
        except Exception as error:
            raise self._unreachable(error) from None
        return len(data)

    def size(self, key: str, candidates: range) -> int:
        """Bytes of a shard."""
        return int(self.system.size(f"{self.root}/{key}/{_name(candidates)}"))

    def path(self, key: str, candidates: range) -> str:
        """The URL."""
        return f"{self.url}/{key}/{_name(candidates)}"

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"engine.shards={self.url} cannot be used ({one_line(error)}); check the bucket, credentials and network"
        )


def open_shards(place: str | Path) -> Shards:
    """The shards at a folder (relative ones start at the repository) or URL. Nothing is connected or made.

    Raises:
        UserError: the URL's file system is unknown, or its package is not installed.
    """
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return LocalShards(located(place))
    if scheme == "file":
        return LocalShards(Path(rest))
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(str(place))
    except ImportError:
        package = _PACKAGES.get(scheme, "of that file system")
        remedy = f"pip install {package}" + (' or pip install -e ".[scale]"' if package == "s3fs" else "")
        raise UserError(f"engine.shards={place} needs the package {package}, which is not installed; run: {remedy}") from None
    except ValueError:
        raise UserError(
            f"engine.shards={place} is not allowed: {scheme}:// is no file system that fsspec knows; "
            "use a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
        ) from None
    return RemoteShards(system, root.rstrip("/"), str(place).rstrip("/"))


def pieces(found: Sequence[range], num_candidates: int, most: int) -> list[tuple[range, bool]]:
    """Return the shards of candidates 0..num_candidates-1: (range, whether that shard is there), end to end.

    The last shard may reach further. What is missing is cut into ranges of at most `most`, and ends where a shard starts.

    >>> pieces([range(0, 4), range(6, 8)], 10, most=3)
    [(range(0, 4), True), (range(4, 6), False), (range(6, 8), True), (range(8, 10), False)]
    """
    parts: list[tuple[range, bool]] = []
    drawn = 0
    while drawn < num_candidates:
        here = [shard for shard in found if shard.start == drawn]
        if here:
            part, there = max(here, key=len), True
        else:
            ends = [shard.start for shard in found if shard.start > drawn]
            part, there = range(drawn, min([drawn + most, num_candidates, *ends])), False
        parts.append((part, there))
        drawn = part.stop
    return parts


def _name(candidates: range) -> str:
    return f"candidates-{candidates.start:06d}-{candidates.stop:06d}.parquet"


def _ranges(names: Sequence[str]) -> list[range]:
    matches = (re.fullmatch(r"candidates-(\d+)-(\d+)\.parquet", name) for name in names)
    return sorted((range(int(match[1]), int(match[2])) for match in matches if match), key=lambda r: (r.start, r.stop))
