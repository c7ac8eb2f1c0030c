"""The frontier: best-of-n for every n against PPO at several KL coefficients, RLOO, GRPO and best-of-n SFT."""

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
        (entry.setting, run_config(*shared, *entry.run_overrides(), f"seed={seed}"))
        for entry in settings.trainings
        for seed in entry.seed_list
    ]
    draw(config, "frontier", folder, settings, runs, optimum=(settings.optimum_prompts, settings.optimum_candidates))


def rebuild(folder: Path) -> None:
    """Write `metrics.csv` and `findings.json` from the stored pools."""
    against_trained.rebuild(folder, "frontier", load_study(folder, "frontier", FrontierConfig))
