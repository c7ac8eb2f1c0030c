"""Progress of a study: which of its trainings are stored, and by which recipe.

A study may take days. What is finished is stored at once, with a digest of everything that determines it, and is not done
again, whether or not the cache still holds it. As long as anything is missing, the folder has `unfinished.json` and no
manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from suite.comparison.setup import Comparison
from suite.config.baselines import switched_on
from suite.config.run import RunConfig
from suite.runtime.files import write_json
from suite.runtime.hashing import digest
from suite.studies.pool_files import read_facts

UNFINISHED = "unfinished.json"
#: A change that makes other numbers of the same recipe makes it one more: then nothing that is stored counts.
_FORMAT = 1


class Progress(NamedTuple):
    """Number of a study's trainings that are stored."""

    done: int
    planned: int

    def __str__(self) -> str:
        return f"{self.done} of {self.planned} trainings"


def training_recipe(comparison: Comparison, config: RunConfig) -> str:
    """Digest of all that determines a training and its pools: configuration, models, prompts and seed.

    Devices are left out: a study may be made on several machines.
    """
    baseline = {key: value for key, value in switched_on(config.baseline).items() if key != "resumable"}
    baseline["num_candidates"] = max(config.baseline.num_candidates, config.n)
    made_by = {"baseline": baseline, "seed": config.seed, "training_prompts": comparison.training_prompts}
    return digest({**_common(comparison, config), **made_by})


def pool_recipe(comparison: Comparison, prompts: int, candidates: int) -> str:
    """Digest of all that determines a pool of the base policy: its first so many prompts, so many candidates of each."""
    common = _common(comparison, comparison.config)
    evaluated = common["evaluation_prompts"][:prompts]
    return digest({**common, "evaluation_prompts": evaluated, "candidates": candidates})


def _common(comparison: Comparison, config: RunConfig) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "policy": comparison.policy.digest,
        "rewards": {name: [judge.digest, judge.reward.label] for name, judge in comparison.judges.items()},
        "sampling": asdict(config.sampling),
        "evaluation_prompts": comparison.evaluation_prompts,
    }


def training_file(folder: Path, name: str) -> Path:
    """The file of a training that is written last: with it all of it is there."""
    return folder / "candidates" / f"{name}.parquet"


def is_stored(path: Path, recipe: str) -> bool:
    """Tell whether a file of a study is there and was made by this recipe."""
    facts = read_facts(path)
    return facts is not None and facts.get("recipe") == recipe


def begin(folder: Path, study: str, planned: Mapping[str, str]) -> None:
    """Declare a folder unfinished: `planned` is training -> recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    write_json(folder / UNFINISHED, {"study": study, "trainings": dict(planned)})


def end(folder: Path) -> None:
    """Declare it finished; its manifest is there."""
    (folder / UNFINISHED).unlink(missing_ok=True)


def progress(folder: Path) -> Progress | None:
    """Return the progress of an unfinished folder; None for one that is finished, or none of a study's."""
    if not (folder / UNFINISHED).is_file() or (folder / "manifest.json").is_file():
        return None
    planned = json.loads((folder / UNFINISHED).read_text(encoding="utf-8"))["trainings"]
    return Progress(sum(is_stored(training_file(folder, name), recipe) for name, recipe in planned.items()), len(planned))


def wanted(name: str, patterns: list[str]) -> bool:
    """Tell whether a training is one of those asked for, all of them where nothing is."""
    return not patterns or any(fnmatch(name, pattern) for pattern in patterns)
