"""All schemas, as Hydra knows them, and a composed configuration as a checked one."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from suite.config.baselines import BASELINES
from suite.config.benchmark import BenchmarkConfig
from suite.config.coverage import CoverageConfig
from suite.config.meanings import help_text, key_meanings
from suite.config.models import FinetuneConfig, PretrainConfig
from suite.config.run import RunConfig
from suite.config.scaling import ScalingConfig
from suite.config.studies import ReproduceConfig
from suite.config.tune import TuneConfig


def checked_config(config: DictConfig) -> RunConfig:
    """The composed configuration as dataclasses, checked.

    Raises:
        UserError: as `RunConfig.check`.
    """
    run: RunConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    run.check()
    return run


def run_help() -> str:
    """Return what `experiments/run.py --help` says of every key, those of each baseline included."""
    keys = key_meanings(RunConfig)
    for kind in BASELINES.values():
        keys |= {name: key for name, key in key_meanings(kind, "baseline.").items() if name not in keys}
    return help_text(keys)


def reproduce_help() -> str:
    """Return what `experiments/reproduce.py --help` says of every key."""
    return help_text(key_meanings(ReproduceConfig))


def register() -> None:
    """Make the schemas known to Hydra: the files in `conf/` name them in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for name, node in BASELINES.items():
        store.store(name=f"{name}_schema", node=node)
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    store.store(name="pretrain_schema", node=PretrainConfig)
    store.store(name="coverage_schema", node=CoverageConfig)
    store.store(name="tune_schema", node=TuneConfig)
    store.store(name="reproduce_schema", node=ReproduceConfig)
    store.store(name="scaling_schema", node=ScalingConfig)
    store.store(name="finetune_schema", node=FinetuneConfig)
