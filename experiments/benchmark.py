"""Measure speed side by side: sampling against its rivals, PPO updates against stock TRL. `parts=[ppo]` for one of them."""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.benchmark import BenchmarkConfig
from suite.config.registry import register
from suite.metrics.speeds import table
from suite.runtime.paths import located
from suite.studies.benchmark import record


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Measure, print the table, write it down."""
    config: BenchmarkConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    folder = located(config.output)
    speeds = record(composed, folder)
    (folder / "speed.md").write_text(table(speeds) + "\n", encoding="utf-8")
    print(table(speeds))


if __name__ == "__main__":
    register()
    command(main)
