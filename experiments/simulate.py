"""Write the tables of docs/experiments/scale.md from published and measured figures. `measure=true` measures again."""

# isort: off
from suite.runtime.errors import UserError
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import json

import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.registry import register
from suite.config.scaling import ScalingConfig
from suite.runtime.files import write_json
from suite.runtime.manifest import manifest
from suite.runtime.paths import located
from suite.scaling.measure import measure
from suite.scaling.measured import Measured
from suite.scaling.tables import tables, written


@hydra.main(config_path="../conf", config_name="simulate", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Measure if asked to, simulate, write."""
    config: ScalingConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    folder, document = located(config.output), located(config.document)
    if config.measure:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "measured.json", measure(config).as_json())
        write_json(folder / "manifest.json", manifest(config=OmegaConf.to_container(composed)))
    if not (folder / "measured.json").is_file():
        raise UserError(f"output={config.output} holds no measured.json: measure=true makes it")
    measured = Measured.of_json(json.loads((folder / "measured.json").read_text(encoding="utf-8")))
    made = tables(measured)
    document.write_text(written(document.read_text(encoding="utf-8"), made), encoding="utf-8")
    print("\n\n".join(f"{name}\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    register()
    command(main)
