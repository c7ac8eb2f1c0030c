"""Search for the settings that train a baseline best at one budget: `python experiments/tune.py`. See conf/tune.yaml."""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.registry import register
from suite.config.tune import TuneConfig
from suite.runtime.files import write_json
from suite.runtime.manifest import manifest
from suite.runtime.paths import located
from suite.studies.tuning import table, tune, write_trials


@hydra.main(config_path="../conf", config_name="tune", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Train every trial that is not cached, print a line each, write the table."""
    config: TuneConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    config.check()
    folder = located(config.results) / str(config.name)
    folder.mkdir(parents=True, exist_ok=True)
    trials = []
    for trial in tune(config):
        trials.append(trial)
        print(f"{trial.settings}: objective {trial.objective:.2f}, KL {trial.kl:.1f}", flush=True)
        write_trials(trials, folder / "trials.csv")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(composed, resolve=True))
    (folder / "table.md").write_text(table(trials) + "\n", encoding="utf-8")
    write_json(folder / "manifest.json", manifest(seed=config.seed))
    print(f"\n{table(trials, 'simple')}\n\nfiles    {folder}")


if __name__ == "__main__":
    register()
    command(main)
