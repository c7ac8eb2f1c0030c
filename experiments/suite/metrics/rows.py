"""Tidy rows: a number a row, with its interval; `metrics.csv` holds them."""

from __future__ import annotations

import csv
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from suite.runtime.files import rounded


@dataclass(frozen=True)
class Row:
    """A number with its interval. `step` is the training update (None for the base policy), `n` of best-of-n.

    `seed` is that of a training, None for a number over all of them; `setting` is what was swept, as `kl_coef=0.1`.
    """

    method: str
    seed: int | None
    step: int | None
    n: int
    metric: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    kl_kind: str | None = None
    setting: str = ""


class Rows(list[Row]):
    """Rows that are only read: `select` finds those of a method and metric without looking at the others."""

    @cached_property
    def by_method_and_metric(self) -> dict[tuple[str, str], list[Row]]:
        """(method, metric) -> its rows, in their order."""
        found: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self:
            found[row.method, row.metric].append(row)
        return dict(found)


def select(rows: Sequence[Row], **wanted: object) -> list[Row]:
    """Return the rows whose fields have these values, in their order."""
    if isinstance(rows, Rows) and {"method", "metric"} <= wanted.keys():
        rows = rows.by_method_and_metric.get((str(wanted["method"]), str(wanted["metric"])), [])
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """`metrics.csv`: whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rounded(asdict(row)) for row in rows)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote; files of earlier versions have no settings."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(
                method=line["method"],
                seed=int(line["seed"]) if line["seed"] else None,
                step=int(line["step"]) if line["step"] else None,
                n=int(line["n"]),
                metric=line["metric"],
                value=float(line["value"]),
                ci_low=float(line["ci_low"]) if line["ci_low"] else None,
                ci_high=float(line["ci_high"]) if line["ci_high"] else None,
                kl_kind=line["kl_kind"] or None,
                setting=line.get("setting") or "",
            )
            for line in csv.DictReader(file)
        ]
