"""Measure speed side by side: sampling against its rivals, PPO updates against stock TRL. `parts=[ppo]` for one of them."""

# isort: off
from suite.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf

from suite.benchmark_schema import BenchmarkConfig
from suite.benchmarks import measure
from suite.command import located
from suite.manifest import manifest, write_json
from suite.schema import register
from suite.speeds import table, write_csv


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Measure, print the table, write it down."""
    config: BenchmarkConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    speeds = measure(config)
    folder = located(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.md").write_text(table(speeds) + "\n", encoding="utf-8")
    write_csv(speeds, folder / "speed.csv")
    write_json(folder / "manifest.json", manifest(config=OmegaConf.to_container(composed)))
    print(table(speeds))


if __name__ == "__main__":
    register()
    command(main)
