"""Every key of every configuration, with its type, its default and its meaning; what Hydra composes is checked against it."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from suite.pretraining import PretrainConfig


def register() -> None:
    """Make the schemas known to Hydra: `conf/*.yaml` name them in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="pretrain_schema", node=PretrainConfig)
