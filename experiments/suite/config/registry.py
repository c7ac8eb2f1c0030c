"""All schemas, as Hydra knows them, and a composed configuration as a checked one."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from suite.config.baselines import BASELINES, TRAINERS, BaselineConfig
from suite.config.benchmark import BenchmarkConfig
from suite.config.coverage import CoverageConfig
from suite.config.meanings import help_text, key_meanings
from suite.config.models import FinetuneConfig, PretrainConfig
from suite.config.run import RunConfig
from suite.config.scaling import ScalingConfig
from suite.config.studies import ReproduceConfig
from suite.config.tune import TuneConfig


def add_baseline(name: str, kind: type[BaselineConfig], trainer: str) -> None:
    """Let `baseline=NAME` train by other code than the suite's, in this process.

    Args:
        name: of the baseline; the default of `kind.name`.
        kind: its keys, with their defaults: a dataclass derived from `BaselineConfig` or `TrainedConfig`.
        trainer: the module whose `train` takes a `TrainingTask` and returns a `Training`.

    Raises:
        ValueError: there is a baseline of that name, or `kind` has another.
    """
    if name in BASELINES or kind().name != name:
        raise ValueError(f"name={name!r}: there is such a baseline, or {kind.__name__}.name differs")
    BASELINES[name] = kind
    TRAINERS[name] = trainer
    ConfigStore.instance().store(group="baseline", name=name, node=kind)


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
