"""Speeds of contenders: a row each, as a table and as a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from tabulate import tabulate


@dataclass(frozen=True)
class Speed:
    """One line of the table. Numbers are NaN where there is none: a contender did not run, or has no share."""

    what: str
    n: int | None
    contender: str
    median: float
    lowest: float
    highest: float
    """The slowest and the fastest round, by value."""
    unit: str
    ratio: float
    """Speed over another's, in times: the median over rounds."""
    share: float = float("nan")
    """Speed over what the machine's matrix products allow: the median over rounds."""
    note: str = ""


def table(speeds: Sequence[Speed]) -> str:
    """The lines as a Markdown table."""
    rows = [
        [
            speed.what,
            "" if speed.n is None else str(speed.n),
            speed.contender,
            "did not run" if np.isnan(speed.median) else f"{speed.median:.4g} {speed.unit}",
            "" if np.isnan(speed.ratio) else f"{speed.ratio:.2f}",
            "" if np.isnan(speed.share) else f"{speed.share:.0%}",
            speed.note.replace("|", "/"),
        ]
        for speed in speeds
    ]
    headers = ["what", "n", "contender", "median", "ours is faster by", "of the limit", "note"]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def write_csv(speeds: Sequence[Speed], path: Path) -> None:
    """A row a line of the table; cells without a number are empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Speed)], lineterminator="\n")
        writer.writeheader()
        for speed in speeds:
            row = asdict(speed)
            writer.writerow({key: "" if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()})


def read_csv(path: Path) -> list[Speed]:
    """Read what `write_csv` wrote."""
    numbers = ("median", "lowest", "highest", "ratio", "share")
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Speed(
                what=row["what"],
                n=int(row["n"]) if row["n"] else None,
                contender=row["contender"],
                unit=row["unit"],
                note=row["note"],
                **{name: float(row[name] or "nan") for name in numbers},
            )
            for row in csv.DictReader(file)
        ]
