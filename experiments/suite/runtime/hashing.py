"""SHA-256: of weights, in the format of sha256sum; of a value, as the short name of what it determines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CHECKSUMS = "SHA256SUMS"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` for the weights below `folder`, whole or not at all."""
    files = sorted(folder.glob("*/model.safetensors"))
    lines = [f"{file_digest(file)}  {file.relative_to(folder)}" for file in files]
    temporary = folder / f".{CHECKSUMS}"
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(folder / CHECKSUMS)


def digest(value: Any) -> str:
    """A short hash of a JSON value: the name of what it determines."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
