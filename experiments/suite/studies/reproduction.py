"""Work of `experiments/reproduce.py`: studies from what is stored, or from scratch; then tables, figures and README."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from suite.config.studies import ReproduceConfig
from suite.runtime.paths import located
from suite.studies.agreement import disagreements, numbers
from suite.studies.progress import end, progress
from suite.studies.registry import study
from suite.studies.store import going_on


def reproduce(
    config: ReproduceConfig, draw: Callable[[str, Path], list[Path]], update_readme: Callable[[], object]
) -> dict[str, list[str]]:
    """Write numbers and figures of `config.chosen` anew; from scratch, run them again and compare.

    Args:
        config: checked.
        draw: draws all figures of a study from its folder.
        update_readme: writes numbers and captions into the README.

    Returns:
        Study -> what disagrees with the committed numbers, a line each; empty lists when all is well or nothing was compared.

    Raises:
        UserError: what a study needs is missing, of another schema, or damaged.
    """
    results = located(config.results)
    found: dict[str, list[str]] = {name: [] for name in config.chosen}
    for name in config.chosen:
        committed = results / name
        if not config.from_scratch:
            if not _unfinished(name, committed):
                _rebuild(name, committed, draw)
            continue
        again = _from_scratch(config, name)
        if again is None:
            continue
        if not (committed / "manifest.json").exists():
            _install(again, committed)
            _rebuild(name, committed, draw)
            continue
        _rebuild(name, committed, draw)
        if again.resolve() != committed.resolve():
            found[name] = _compared(name, again, committed)
    update_readme()
    return found


def _unfinished(name: str, folder: Path) -> bool:
    """Tell whether a study's folder is unfinished, and say so in a line."""
    found = progress(folder)
    if found is not None:
        print(f"{name}: unfinished, {found} are in {folder}; {going_on(name, folder)}", flush=True)
    return found is not None


def _from_scratch(config: ReproduceConfig, name: str) -> Path | None:
    """Run a study; what was drawn and trained before is read from its folder and from the cache. None: it is unfinished."""
    start = time.perf_counter()
    folder = located(config.output) / name
    folder.mkdir(parents=True, exist_ok=True)
    study(name).run(config, folder)
    if _unfinished(name, folder):
        return None
    study(name).rebuild(folder)
    print(f"{name}: run from scratch in {_duration(time.perf_counter() - start)}, in {folder}", flush=True)
    return folder


def _rebuild(name: str, folder: Path, draw: Callable[[str, Path], list[Path]]) -> None:
    start = time.perf_counter()
    study(name).rebuild(folder)
    figures = draw(name, folder)
    print(f"{name}: rebuilt in {_duration(time.perf_counter() - start)}, {len(figures)} figures in {folder}", flush=True)


def _compared(name: str, again: Path, committed: Path) -> list[str]:
    if not (again / "metrics.csv").is_file():
        print(f"{name}: speeds belong to the machine and are not compared", flush=True)
        return []
    lines = disagreements(again, committed)
    told = "all agree" if not lines else f"{len(lines)} disagree"
    print(f"{name}: {len(numbers(committed))} numbers compared with {committed}, {told}", flush=True)
    return lines


def _install(again: Path, folder: Path) -> None:
    """The first results of a study, whole or not at all: beside what else the folder holds, the manifest last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        copy = Path(scratch) / folder.name
        shutil.copytree(again, copy)
        for part in sorted(copy.iterdir(), key=lambda part: part.name == "manifest.json"):
            if (folder / part.name).is_dir():
                shutil.rmtree(folder / part.name)
            part.replace(folder / part.name)
    end(folder)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
