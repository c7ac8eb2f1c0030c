"""Contents of a run's folder, read back; nothing is computed or loaded that the report does not show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bon import Candidates
from suite.metrics.rows import Row, read_rows
from suite.metrics.series import tuned_methods
from suite.runtime.errors import UserError, one_line

_REMEDY = "make the run again with python experiments/run.py"
#: Figures in the order of the report; others follow by name.
_ORDER = ("reward_vs_n", "reward_vs_kl", "reward_distribution", "cost")


@dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Attributes:
        name: of its folder.
        config: the resolved configuration, and `config_text` as it stands in the file.
        manifest: code, versions, machine, data and models, and `manifest_text` likewise.
        rows: `metrics.csv`.
        pools: method -> candidates; "base" and, where one was trained, the tuned method.
        findings: the sentences below the table of `summary.txt`.
        figures: SVG where there is one, else PNG.
    """

    name: str
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    manifest_text: str
    rows: list[Row]
    pools: dict[str, Candidates]
    findings: list[str]
    figures: list[Path]


def read_run(folder: Path) -> RunFolder:
    """Read what `experiments/run.py` wrote.

    Raises:
        UserError: there is no such folder, it is not that of a run, or one of its files is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_runs_beside(folder)}")
    if not (folder / "candidates.parquet").is_file():
        raise UserError(f"{folder} is not a whole run: candidates.parquet is missing; {_runs_beside(folder)}")
    config_text, config = _read(folder / "config.yaml", lambda path: _with_text(path, yaml.safe_load))
    manifest_text, manifest = _read(folder / "manifest.json", lambda path: _with_text(path, json.loads))
    rows = _read(folder / "metrics.csv", _rows)
    pools = {"base": _read(folder / "candidates.parquet", Candidates.load)}
    for method in tuned_methods(rows):
        pools[method] = _read(folder / f"candidates_{method}.parquet", Candidates.load)
    _check_pools(folder, pools, config)
    return RunFolder(
        name=folder.resolve().name,
        config=config,
        config_text=config_text,
        manifest=manifest,
        manifest_text=manifest_text,
        rows=rows,
        pools=pools,
        findings=_read(folder / "summary.txt", _sentences),
        figures=_figures(folder / "figures"),
    )


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Return what a file holds, or refuse it in one line that names it."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_REMEDY}") from None
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is damaged ({one_line(error).removeprefix(str(path)).strip()}); {_REMEDY}") from None


def _with_text(path: Path, parse: Callable[[str], Any]) -> tuple[str, dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError("no keys in it")
    return text.strip(), value


def _rows(path: Path) -> list[Row]:
    rows = read_rows(path)
    if not rows:
        raise ValueError("no rows in it")
    return rows


def _sentences(path: Path) -> list[str]:
    """The lines below the table, which ends with a blank line."""
    _, _, below = path.read_text(encoding="utf-8").partition("\n\n")
    if not below.strip():
        raise ValueError("no findings below its table")
    return below.strip().splitlines()


def _check_pools(folder: Path, pools: dict[str, Candidates], config: dict[str, Any]) -> None:
    for method, pool in pools.items():
        missing = sorted({"proxy", "gold"} - set(pool.scores))
        if missing:
            raise UserError(f"{folder}: the candidates of {method} have no {missing[0]} scores; {_REMEDY}")
        if list(pool.prompts) != list(pools["base"].prompts):
            raise UserError(f"{folder}: base and {method} answer different prompts; {_REMEDY}")
    n, most = config.get("n"), pools["base"].num_candidates
    if not isinstance(n, int) or not 1 <= n <= most:
        raise UserError(f"{folder}/config.yaml: n={n} is not allowed: must lie in 1..{most}, the candidates drawn; {_REMEDY}")


def _figures(folder: Path) -> list[Path]:
    """One file a figure."""
    found = {path.stem: path for kind in ("png", "svg") for path in sorted(folder.glob(f"*.{kind}"))}
    known = [name for name in _ORDER if name in found]
    return [found[name] for name in [*known, *sorted(set(found) - set(known))]]


def _runs_beside(folder: Path) -> str:
    """List the runs in the same place."""
    runs = sorted(path.parent.name for path in folder.parent.glob("*/candidates.parquet"))
    return f"runs in {folder.parent}: {', '.join(runs)}" if runs else f"no run in {folder.parent}: {_REMEDY}"
