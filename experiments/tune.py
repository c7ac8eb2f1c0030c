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
from suite.studies.tuning import search
from suite.studies.tuning_table import joined, read_trials, table, write_trials


@hydra.main(config_path="../conf", config_name="tune", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Train every trial that is not cached, print a line each, write the table; other trainers' trials stay."""
    config: TuneConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    config.check()
    folder = located(config.results) / str(config.name)
    folder.mkdir(parents=True, exist_ok=True)
    kept, found = read_trials(folder / "trials.csv"), []
    for trial in search(config):
        found.append(trial)
        print(
            f"{trial.trainer} at {trial.price:g} a nat, {trial.settings}, {trial.updates} updates, seed {trial.seed}: "
            f"{trial.share:.0%} of the optimum, KL {trial.kl:.2f}",
            flush=True,
        )
    trials = joined(kept, found, config.baseline.name, config.prices)
    write_trials(trials, folder / "trials.csv")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(composed, resolve=True))
    (folder / "table.md").write_text(table(trials) + "\n", encoding="utf-8")
    write_json(folder / "manifest.json", manifest(seed=config.seed))
    print(f"\n{table(trials, 'simple')}\n\nfiles    {folder}")


if __name__ == "__main__":
    register()
    command(main)
