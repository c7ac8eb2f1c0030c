"""Write the reference pages: every configuration key and every metric, from the code that defines them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection
from typing import get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from suite.config.baselines import BASELINES, BaselineConfig
from suite.config.meanings import key_meanings
from suite.config.registry import register
from suite.config.run import RunConfig
from suite.metrics.registry import OPTIMUM
from suite.runtime.paths import REPOSITORY
from suite.tracking.keys import COSTS, MEASURES, OBJECTIVES, Key

WRITTEN = "<!-- Written by `python experiments/reproduce.py`: do not edit. -->"
#: Command -> the schema that its file in conf/ names. report.py and dashboard.py have options instead.
COMMANDS = {
    "run": "run",
    "reproduce": "reproduce",
    "draw": "run",
    "tune": "tune",
    "validate": "coverage",
    "benchmark": "benchmark",
    "simulate": "scaling",
    "pretrain": "pretrain",
    "finetune": "finetune",
}


def configuration_page() -> str:
    """Return every key with its type, its default and its meaning."""
    register()
    parts = [
        f"{WRITTEN}\n\n# Configuration",
        "Say `key=value` on the command line, or in a file in `conf/`. `--cfg job` shows the values of a run.\n"
        "Where a key has no default here, the chosen file of its group sets it, or you do.",
        "## Groups\n\nCommands share these groups; `group=choice` takes a file of `conf/group/`.",
        *(_section(f"### {name}", kind, f"{name}.") for name, kind in groups_of(RunConfig).items()),
        "## Baselines\n\nWhat each has besides the keys of the group `baseline`.",
    ]
    common, trained = _names(BaselineConfig), {name: kind for name, kind in BASELINES.items() if name != "none"}
    parts += [_section(f"### baseline={name}", kind, "baseline.", common) for name, kind in trained.items()]
    parts.append("## Commands")
    told: set[type] = set()
    for command, schema in COMMANDS.items():
        kind = OmegaConf.get_type(ConfigStore.instance().repo[f"{schema}_schema.yaml"].node)
        assert kind is not None
        title = f"### experiments/{command}.py"
        if kind in told:
            parts.append(f"{title}\n\nThe keys of `experiments/{schema}.py`.")
            continue
        told.add(kind)
        of_run = kind is not RunConfig and issubclass(kind, RunConfig)
        without = _names(RunConfig) if of_run else groups_of(kind).keys() & groups_of(RunConfig).keys()
        parts.append(_section(title, kind, "", without, of_run))
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """Return every metric of `metrics.csv` with its unit and its meaning."""
    return (
        "\n\n".join(
            [
                f"{WRITTEN}\n\n# Metrics",
                "The column `metric` of `metrics.csv`, one number per row.\n"
                "`value` has a 95% interval from `ci_low` to `ci_high`.\n"
                "Rows of `kl` say which kind in `kl_kind`; the kinds are listed here as `kl_KIND`.\n"
                "Formulas and sources: [methods](../methods.md).",
                "## Of responses",
                _metrics(MEASURES),
                "## Of the objective",
                _metrics(OBJECTIVES),
                "## Of the optimum",
                _metrics({name: Key(metric.meaning, metric.unit, metric.axis) for name, metric in OPTIMUM.items()}),
                "## Of cost",
                _metrics(COSTS),
            ]
        )
        + "\n"
    )


def groups_of(kind: type) -> dict[str, type]:
    """Return the fields of a dataclass that are dataclasses: name -> class."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if dataclasses.is_dataclass(hints[field.name])}


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _section(title: str, kind: type, prefix: str = "", without: Collection[str] = (), of_run: bool = False) -> str:
    """Return a heading, what the dataclass says of itself, and a table of its keys; `without` names fields left out."""
    skipped = [prefix + name for name in without]
    keys = {
        key: told
        for key, told in key_meanings(kind, prefix).items()
        if not any(key == name or key.startswith(f"{name}.") for name in skipped)
    }
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, told in keys.items():
        default = told.default.replace(f"{REPOSITORY}/", "")
        lines.append(f"| `{key}` | {_code(told.type)} | {_code(default)} | {told.meaning.replace('|', chr(92) + '|')} |")
    about = inspect.cleandoc(kind.__doc__ or "")
    besides = " Besides the keys of `experiments/run.py`:" if of_run else ""
    return "\n\n".join([title, f"{about}{besides}", *(["\n".join(lines)] if keys else [])])


def _metrics(keys: dict[str, Key]) -> str:
    lines = ["| metric | unit | meaning |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{name}` | {key.unit} | {key.meaning} |" for name, key in keys.items())])


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""
