"""Prompts from a JSONL or CSV file, split into training and evaluation by a hash of their text.

A prompt's side depends on its text alone: neither on the file's order nor on the other prompts nor on a seed. Prompts that
differ in case or white space alone fall on the same side, so that none is trained on and evaluated with.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.data.text_keys import text_key
from suite.runtime.errors import UserError
from suite.runtime.paths import found

#: The share of the prompts that train; the others evaluate.
TRAINING_SHARE = 0.5


@dataclass(frozen=True)
class Prompt:
    """A prompt of a file and the line it begins in, counted from 1."""

    text: str
    line: int


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, each text once, by split; within a split in hash order, which is a random order.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file.
        splits: `ppo` (training) and `evaluation`.
    """

    path: Path
    digest: str
    splits: dict[str, list[Prompt]]

    def encoded(
        self, encode: Callable[[str], list[int]], context: int | None, max_new_tokens: int
    ) -> dict[str, list[list[int]]]:
        """Token ids of every prompt, by split.

        Raises:
            UserError: a prompt leaves no room for a response in the context, or has no tokens; names file and line.
        """
        splits: dict[str, list[list[int]]] = {}
        for split, prompts in self.splits.items():
            splits[split] = []
            for prompt in prompts:
                ids = encode(prompt.text)
                if not ids:
                    raise UserError(f"{self.path}:{prompt.line}: the prompt has no tokens")
                if context is not None and len(ids) + max_new_tokens > context:
                    raise UserError(
                        f"{self.path}:{prompt.line}: the prompt has {len(ids)} tokens, which leaves no room for "
                        f"sampling.max_new_tokens={max_new_tokens} in the policy's context of {context}"
                    )
                splits[split].append(ids)
        return splits


def read_prompts(path: str, column: str) -> PromptFile:
    """Read a file whose name ends in `.jsonl` (an object a line) or `.csv` (with a header).

    Raises:
        UserError: there is no such file, or a line has no prompt; names file and line.
    """
    file = found(path)
    readers: dict[str, Callable[[Path, str, str], Iterator[Prompt]]] = {".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"task.prompts={path} is not allowed: must end in .jsonl (an object a line) or .csv (with a header)")
    try:
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"task.prompts={path}: {file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: not UTF-8") from None
    prompts: dict[str, Prompt] = {}
    for prompt in reader(file, text, column):
        if not prompt.text.strip():
            raise UserError(f"{file}:{prompt.line}: the prompt is empty")
        prompts.setdefault(prompt.text, prompt)
    keys = {text: text_key(text) for text in prompts}
    splits: dict[str, list[Prompt]] = {"ppo": [], "evaluation": []}
    for text in sorted(prompts, key=lambda text: (keys[text], text)):
        splits["ppo" if keys[text] < TRAINING_SHARE else "evaluation"].append(prompts[text])
    return PromptFile(file, hashlib.sha256(content).hexdigest(), splits)


def _jsonl(file: Path, text: str, column: str) -> Iterator[Prompt]:
    for line, row in enumerate(text.split("\n")[: -1 if text.endswith("\n") else None], 1):
        if not row.strip():
            raise UserError(f"{file}:{line}: the line is empty")
        try:
            value = json.loads(row)
        except ValueError as error:
            raise UserError(f"{file}:{line}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise UserError(f"{file}:{line}: a {type(value).__name__}, not an object with a field {column!r}")
        if column not in value:
            raise UserError(f"{file}:{line}: {_no_column(column, list(value))}")
        yield Prompt(_text(value[column], file, line, column), line)


def _csv(file: Path, text: str, column: str) -> Iterator[Prompt]:
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    header: list[str] = []
    line = 1
    try:
        header = next(rows, [])
        if column not in header:
            raise UserError(f"{file}:1: {_no_column(column, header)}")
        line = rows.line_num + 1
        for row in rows:
            if not row:
                raise UserError(f"{file}:{line}: the line is empty")
            if len(row) != len(header):
                raise UserError(f"{file}:{line}: {len(row)} fields, the header has {len(header)}")
            yield Prompt(row[header.index(column)], line)
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}:{line}: not CSV ({error})") from None


def _text(value: Any, file: Path, line: int, column: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{file}:{line}: {column!r} is a {type(value).__name__}, not text")
    return value


def _no_column(column: str, there: Sequence[str]) -> str:
    return f"no column {column!r}; there are {', '.join(map(repr, there)) or 'none'} (task.column says which holds the prompt)"
