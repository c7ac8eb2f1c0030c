"""The folder of a study: what was drawn and trained for it, with the settings that its numbers are made by.

`config.yaml` and `manifest.json` say how it was made, `candidates/` and `checkpoints/` hold the pools. The manifest is written
last: a folder that has one is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bon import Candidates
from suite.config.run import RunConfig
from suite.metrics.cost import request_flops_at
from suite.runtime.errors import UserError
from suite.runtime.files import write_json
from suite.studies.pool_files import load_checkpoints, load_pool, save_checkpoints, save_pool

#: Of everything in a study's folder; a change that old files cannot be read with makes it one more.
SCHEMA = 1

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Trained:
    """One training: its policies on the evaluation prompts, and what it cost.

    Attributes:
        method, setting, seed: what was trained; `setting` as in the rows, blank where nothing was swept.
        pools: update -> pool of the policy after it, the last with the most candidates; earlier ones have lost their tokens.
        tokens, flops, seconds, reward_tokens: of the training; the last is None in folders that do not say.
    """

    method: str
    setting: str
    seed: int
    pools: dict[int, Candidates]
    tokens: int
    flops: int
    seconds: float
    reward_tokens: int | None = None

    @property
    def name(self) -> str:
        """The stem of its files."""
        return "-".join(part for part in (self.method, self.setting, f"seed{self.seed}") if part)

    @property
    def label(self) -> str:
        """What is common to all its seeds, as the findings call it."""
        return f"{self.method} {self.setting}".strip()

    @property
    def last(self) -> int:
        """The last update."""
        return max(self.pools)

    @property
    def final(self) -> Candidates:
        """The pool of the policy that came out."""
        return self.pools[self.last]


@dataclass(frozen=True)
class Stored:
    """What a study's folder holds.

    Attributes:
        base: the base policy's pool.
        trained: every training.
        settings: the study's own keys.
        resamples: bootstrap samples behind its intervals.
        policy_flops, proxy_flops: of a token through these models, forward.
    """

    base: Candidates
    trained: list[Trained]
    settings: Any
    resamples: int
    policy_flops: int
    proxy_flops: int

    def request_flops(self, pool: Candidates) -> NDArray[np.float64]:
        """FLOPs of a request by best-of-n of a pool's policy, for every prompt and n: [P, N]."""
        return request_flops_at(pool, self.policy_flops, self.proxy_flops)

    def groups(self) -> dict[str, list[Trained]]:
        """Label -> its trainings, a seed each."""
        found: dict[str, list[Trained]] = {}
        for training in self.trained:
            found.setdefault(training.label, []).append(training)
        return found


def save_base(folder: Path, pool: Candidates) -> None:
    """Store the base policy's pool."""
    save_pool(pool, folder / "candidates" / "base.parquet", {"method": "base", "setting": "", "seed": 0, "step": None})


def save_trained(folder: Path, trained: Trained) -> None:
    """Store a training's pools."""
    facts = {key: getattr(trained, key) for key in ("method", "setting", "seed", "tokens", "flops", "reward_tokens")}
    facts["training_seconds"] = trained.seconds
    earlier = {step: pool for step, pool in trained.pools.items() if step != trained.last}
    if earlier:
        save_checkpoints(earlier, folder / "checkpoints" / f"{trained.name}.parquet", facts)
    save_pool(trained.final, folder / "candidates" / f"{trained.name}.parquet", {**facts, "step": trained.last})


def save_facts(
    folder: Path, study: str, settings: Any, run: RunConfig, trainings: Sequence[Trained], facts: Mapping[str, Any]
) -> None:
    """Store how it was all made, and with that declare the folder complete."""
    text = OmegaConf.to_yaml(OmegaConf.create({"study": asdict(settings), "run": asdict(run)}))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    own = {"schema": SCHEMA, "study": study, "trainings": {t.name: len(t.pools) for t in trainings}}
    write_json(folder / "manifest.json", {**own, **facts})


def load_study(folder: Path, study: str, kind: type[Settings]) -> Stored:
    """What the folder of a study holds.

    Raises:
        UserError: it is missing, incomplete or of another schema; the message has the command that makes it.
    """
    facts = _manifest(folder, study)
    try:
        config: Any = OmegaConf.load(folder / "config.yaml")
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), config["study"]))
        assert is_dataclass(settings)
        base, _ = load_pool(folder / "candidates" / "base.parquet")
        trained = [_training(folder, name, steps, base) for name, steps in facts["trainings"].items()]
        flops = facts["flops_per_token"]
        return Stored(base, trained, settings, int(config["run"]["resamples"]), flops["policy"], flops["proxy"])
    except (OSError, KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{folder} cannot be read ({type(error).__name__}: {_line(error)}); {remedy(folder, study)}") from None
    except UserError as error:
        raise UserError(f"{error}; {remedy(folder, study)}") from None


def remedy(folder: Path, study: str) -> str:
    """What to do about a study that is missing or unreadable."""
    command = f"python experiments/reproduce.py --from-scratch studies=[{study}]"
    return f"remove {folder} and run: {command}" if folder.exists() else f"run: {command}"


def _manifest(folder: Path, study: str) -> dict[str, Any]:
    try:
        facts = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"study {study}: {folder} holds no results; {remedy(folder, study)}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"study {study}: {folder}/manifest.json is damaged ({error}); {remedy(folder, study)}") from None
    found = facts.get("schema") if isinstance(facts, dict) else None
    if found != SCHEMA:
        raise UserError(f"study {study}: {folder} has schema {found}, this version reads {SCHEMA}; {remedy(folder, study)}")
    return dict(facts)


def _training(folder: Path, name: str, steps: int, base: Candidates) -> Trained:
    final, facts = load_pool(folder / "candidates" / f"{name}.parquet")
    if [list(ids) for ids in final.prompt_token_ids] != [list(ids) for ids in base.prompt_token_ids]:
        raise UserError(f"{folder}/candidates/{name}.parquet has other prompts than the base policy's pool")
    earlier = {}
    if steps > 1:
        earlier = load_checkpoints(folder / "checkpoints" / f"{name}.parquet", final.prompt_token_ids)
    return Trained(
        method=facts["method"],
        setting=facts["setting"],
        seed=facts["seed"],
        pools={**earlier, facts["step"]: final},
        tokens=facts["tokens"],
        flops=facts["flops"],
        seconds=facts["training_seconds"],
        reward_tokens=facts.get("reward_tokens"),
    )


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
