"""The comparison at full size: SmolLM2-135M taught film reviews, judged by classifiers of its own size, against PPO."""

from __future__ import annotations

from pathlib import Path

from suite.config.studies import ReproduceConfig, SmolLM2Config
from suite.studies import against_trained
from suite.studies.drawing import draw, run_config, shared_overrides
from suite.studies.store import load_study
from suite.studies.workers import Run


def run(config: ReproduceConfig, folder: Path) -> None:
    """Draw the base policy's pool, train PPO at every KL coefficient with every seed, and store it all."""
    settings = config.smollm2
    shared = (
        *shared_overrides(config, settings),
        f"policy={settings.policy}",
        f"reward={settings.reward}",
        "baseline=ppo",
        f"baseline.updates={settings.updates}",
        f"baseline.checkpoint_every={settings.checkpoint_every}",
        f"baseline.learning_rate={settings.learning_rate}",
        "baseline.evaluate_every=2",
        "baseline.resumable=false",  # forty gigabytes less
    )
    runs: list[Run] = [
        (f"kl_coef={kl_coef:g}", run_config(*shared, f"baseline.kl_coef={kl_coef}", f"seed={seed}"))
        for kl_coef in settings.kl_coefs
        for seed in settings.seeds
    ]
    draw(config, "smollm2", folder, settings, runs)


def rebuild(folder: Path) -> None:
    """Write `metrics.csv` and `findings.json` from the stored pools."""
    against_trained.rebuild(folder, "smollm2", load_study(folder, "smollm2", SmolLM2Config))
