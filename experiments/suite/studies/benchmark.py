"""The speed table as a study: measured by `experiments/benchmark.py`, written anew from its CSV."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from suite.benchmarks import measure
from suite.command import UserError
from suite.manifest import manifest, write_json
from suite.speeds import read_csv, table, write_csv
from suite.studies.composing import composed
from suite.studies.schema import ReproduceConfig
from suite.studies.store import remedy


def run(config: ReproduceConfig, folder: Path) -> None:
    """Measure with the defaults of the benchmark; nothing of it can come from a cache."""
    benchmark = composed("benchmark")
    speeds = measure(OmegaConf.to_object(benchmark))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(speeds, folder / "speed.csv")
    write_json(folder / "manifest.json", manifest(config=OmegaConf.to_container(benchmark)))


def rebuild(folder: Path) -> None:
    """Write `speed.md` from `speed.csv`.

    Raises:
        UserError: the CSV is missing or has other columns.
    """
    try:
        speeds = read_csv(folder / "speed.csv")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"study benchmark: {folder}/speed.csv cannot be read ({type(error).__name__}); {remedy(folder, 'benchmark')}"
        ) from None
    (folder / "speed.md").write_text(table(speeds) + "\n", encoding="utf-8")
