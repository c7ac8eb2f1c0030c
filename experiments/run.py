"""Compare best-of-n with a trained policy on the same prompts: `python experiments/run.py n=8`. See --help for the keys."""

# isort: off
from suite.runtime.command import command, job  # first: the package says in one line what is not installed

# isort: on
import hydra
from omegaconf import DictConfig, OmegaConf

from suite.analysis.findings import as_json
from suite.analysis.objective_words import objectives_as_json
from suite.comparison import processes
from suite.comparison.compare import compare
from suite.comparison.setup import model_facts, prepare
from suite.config.registry import checked_config, register, run_help
from suite.figures.run_figures import draw_run
from suite.metrics.rows import write_rows
from suite.metrics.samples import sample_table
from suite.reports.html.page import write_report
from suite.reports.terminal import next_steps, plan, samples, table, verdict
from suite.runtime import distributed
from suite.runtime.files import rounded, write_json
from suite.runtime.manifest import manifest
from suite.tracking.tracker import open_tracker


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
@job
def main(composed: DictConfig) -> None:
    """Resolve, validate, draw, train, evaluate, save, show."""
    config = checked_config(composed)
    processes.start(config)
    comparison = prepare(config)
    if not distributed.first():
        compare(comparison)  # its part of the work; the first process shows and saves
        return
    resolved = OmegaConf.to_container(composed, resolve=True)
    folder = comparison.folder
    tracker = open_tracker(config.tracking, folder, resolved)
    print(plan(comparison, tracker.told()), flush=True)

    with tracker:
        outcome = compare(comparison, tracker.updated)
        tracker.warned(outcome.warnings)

    for method, pool in outcome.pools.items():
        pool.save(folder / ("candidates.parquet" if method == "base" else f"candidates_{method}.parquet"))
    write_rows(outcome.rows, folder / "metrics.csv")
    found = as_json(outcome.findings, outcome.overoptimisation)
    if outcome.yardstick is not None:
        found["objective"] = objectives_as_json(outcome.yardstick, outcome.objectives)
    write_json(folder / "findings.json", rounded(found))
    figures = draw_run(folder)
    shown = sample_table(outcome.pools, config.n, 20)
    heading = f"# Samples of {comparison.name}\n\n"
    (folder / "samples.md").write_text(heading + samples(shown, "github") + "\n", encoding="utf-8")
    facts = {"seed": config.seed, "processes": distributed.size(), "seconds": comparison.seconds, **model_facts(comparison)}
    write_json(folder / "manifest.json", manifest(**facts))

    told = f"{table(outcome, config.n)}\n\n{verdict(outcome)}"
    (folder / "summary.txt").write_text(told + "\n", encoding="utf-8")
    tracker.finished(outcome.policies)
    print(f"\n{told}\n\n{samples(shown[:4])}\n")
    print("\n".join(f"figure   {figure}" for figure in figures))
    print(f"files    {folder}: {', '.join(sorted(path.name for path in folder.iterdir() if path.is_file()))}")
    print(f"report   {write_report(folder) if 'gold' in comparison.judges else 'none: it is made for two rewards'}")
    print(f"next     {next_steps(config)}")


if __name__ == "__main__":
    register()
    command(main, several=True, meanings=run_help)
