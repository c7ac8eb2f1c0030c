"""The frontier: best-of-n for every n against PPO at KL coefficients over two decades, RLOO, GRPO and best-of-n SFT."""

from __future__ import annotations

from pathlib import Path

from suite.config.studies import FrontierConfig, ReproduceConfig
from suite.studies import against_trained
from suite.studies.drawing import draw, run_config, shared_overrides
from suite.studies.store import load_study
from suite.studies.workers import Run


def run(config: ReproduceConfig, folder: Path) -> None:
    """Draw the base policy's pool, train every method with every seed, and store it all."""
    settings = config.frontier
    shared = shared_overrides(config, settings)
    runs: list[Run] = [
        (f"kl_coef={kl_coef:g}", run_config(*shared, "baseline=ppo", f"baseline.kl_coef={kl_coef}", f"seed={seed}"))
        for kl_coef in settings.kl_coefs
        for seed in settings.seeds
    ]
    runs += [
        ("", run_config(*shared, f"baseline={other}", f"seed={seed}"))
        for other in settings.others
        for seed in settings.other_seeds
    ]
    draw("frontier", folder, settings, runs, workers=config.workers)


def rebuild(folder: Path) -> None:
    """Write `metrics.csv` and `findings.json` from the stored pools."""
    against_trained.rebuild(folder, "frontier", load_study(folder, "frontier", FrontierConfig))
