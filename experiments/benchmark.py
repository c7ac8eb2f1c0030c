"""Measure speed side by side: sampling against `generate`, PPO updates against stock TRL. `parts=[ppo]` for one of them."""

# isort: off
from suite.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

from suite.benchmarks import measure
from suite.command import located
from suite.manifest import manifest, write_json
from suite.schema import register


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Measure, print the table, write it down."""
    config = OmegaConf.to_object(composed)
    speeds = measure(config)
    rows = [[line.what, line.contender, f"{line.median:.4g} {line.unit}", f"{line.ratio:.2f}"] for line in speeds]
    table = tabulate(
        rows, headers=["what", "contender", "median", "times the first"], tablefmt="github", disable_numparse=True
    )
    folder = located(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.md").write_text(table + "\n", encoding="utf-8")
    write_json(folder / "manifest.json", manifest(config=OmegaConf.to_container(composed), speeds=[vars(s) for s in speeds]))
    print(table)


if __name__ == "__main__":
    register()
    command(main)
