"""Configurations of other commands, composed while this one is running."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from suite.runtime.paths import REPOSITORY


def composed(name: str, *overrides: str) -> DictConfig:
    """Compose what the command of `conf/<name>.yaml` would see with these on its command line.

    Raises:
        HydraException: an override that this command does not know.
    """
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None  # Hydra composes for one command at a time
    try:
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            return compose(name, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = running  # the instance itself may be another by now
