"""Rebuild every figure and table from what `results/` holds; `--from-scratch` runs the studies again. See --help."""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed
from suite.runtime.paths import located

# isort: on
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from suite.config.registry import register, reproduce_help
from suite.config.studies import ReproduceConfig


@hydra.main(config_path="../conf", config_name="reproduce", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Check, rebuild or run, compare, say what differs."""
    config: ReproduceConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]
    config.check()
    from suite.figures.run_figures import draw_run  # models and matplotlib only once the keys are known to be right
    from suite.figures.studies import checked_names, draw  # models and matplotlib only once the keys are known to be right
    from suite.reports.readme import update
    from suite.studies.reproduction import reproduce

    names = checked_names(config.chosen, config.figures)
    found = reproduce(config, lambda study, folder: draw(study, folder, names[study]), update)
    headline = located(config.results) / "headline"
    if not config.figures and headline.is_dir():
        print(f"headline: {len(draw_run(headline))} figures in {headline}", flush=True)
    for study, lines in found.items():
        print("\n".join(f"{study}: {line}" for line in lines), end="\n" if lines else "")
    if any(found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    register()
    # Hydra's own command line knows key=value only.
    sys.argv = ["from_scratch=true" if argument == "--from-scratch" else argument for argument in sys.argv]
    command(main, meanings=reproduce_help)
