"""Record that a run in progress leaves in its folder, so that nothing that is tracked lives in a tracking backend alone.

`config.yaml` is there from the start, `updates.jsonl` grows by a line an update, and `tracking.json` says which comparison
this is and whether the other files are there yet.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from suite.runtime.files import write_json

CONFIG, UPDATES, STATE = "config.yaml", "updates.jsonl", "tracking.json"


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Note that a run with this configuration begins in the folder, or goes on: an interrupted one keeps its identity."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    same = (folder / CONFIG).is_file() and yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8")) == dict(config)
    state = read_state(folder)
    if not same or state is None or state["finished"]:
        state = {"identity": secrets.token_hex(6)}
        (folder / UPDATES).unlink(missing_ok=True)
    write_json(folder / STATE, {**state, "finished": False})
    temporary = folder / f".{CONFIG}"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / CONFIG)


def finish(folder: Path, policies: Mapping[str, Path]) -> None:
    """Note that every file of the run is there; `policies` are the folders of the tuned policies, by method."""
    state = read_state(folder) or {}
    kept = {method: str(path) for method, path in policies.items()}
    write_json(folder / STATE, {**state, "finished": True, "policies": kept})


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return what `begin` and `finish` noted; None where neither was called."""
    path = folder / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class UpdateLog:
    """`updates.jsonl` of a run: a row of the trainer's log is there as soon as its update is done."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / UPDATES
        self.written: int | None = None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Bring the file up to these rows. Rows of an earlier sitting stay if they are the same, else all are written anew."""
        lines = [json.dumps(row) + "\n" for row in rows]
        if self.written is None:
            kept = "".join(lines[: len(read_updates(self.path.parent))])
            if not self.path.is_file() or self.path.read_text(encoding="utf-8") != kept:
                temporary = self.path.with_name(f".{self.path.name}")
                temporary.write_text(kept, encoding="utf-8")
                temporary.replace(self.path)
            self.written = kept.count("\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines[self.written :]))
        self.written = len(lines)


def read_updates(folder: Path) -> list[dict[str, Any]]:
    """The rows of `updates.jsonl`; a last line without its end was cut by a kill and is left out."""
    path = folder / UPDATES
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
