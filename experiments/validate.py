"""Measure how often 95% intervals hold the truth, in simulated studies. `studies=200` for a quick look."""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.coverage import CoverageConfig
from suite.config.registry import register
from suite.runtime.files import write_json
from suite.runtime.manifest import manifest
from suite.runtime.paths import located
from suite.studies.interval_coverage import measure, table, write_csv


@hydra.main(config_path="../conf", config_name="coverage", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Simulate, print the table, write it down."""
    config: CoverageConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    found = measure(config)
    folder = located(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(found, folder / "coverage.csv")
    (folder / "coverage.md").write_text(table(found, config) + "\n", encoding="utf-8")
    write_json(folder / "manifest.json", manifest(config=OmegaConf.to_container(composed)))
    print(table(found, config))


if __name__ == "__main__":
    register()
    command(main)
