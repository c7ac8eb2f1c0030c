"""The speed table as a study: measured by `experiments/benchmark.py`, written anew from its CSV."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from suite.benchmark.measure import measure
from suite.config.benchmark import BenchmarkConfig
from suite.config.studies import ReproduceConfig
from suite.metrics.speeds import Speed, read_csv, table, write_csv
from suite.runtime.errors import UserError
from suite.runtime.files import write_json
from suite.runtime.manifest import manifest
from suite.studies.composing import composed
from suite.studies.store import remedy


def run(config: ReproduceConfig, folder: Path) -> None:
    """Measure with the defaults of the benchmark; nothing of it can come from a cache."""
    record(composed("benchmark"), folder)


def record(benchmark: DictConfig, folder: Path) -> list[Speed]:
    """Measure what a composed configuration asks for; its lines and how they were made go into the folder.

    Raises:
        UserError: a key is wrong, a model cannot be loaded, or the data hold fewer prompts.
    """
    config: BenchmarkConfig = OmegaConf.to_object(benchmark)  # type: ignore[assignment]
    start = time.perf_counter()
    speeds = measure(config)
    seconds = time.perf_counter() - start
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(speeds, folder / "speed.csv")
    write_json(folder / "manifest.json", manifest(config=OmegaConf.to_container(benchmark), seconds=seconds))
    return speeds


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
