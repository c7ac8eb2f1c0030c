"""The folder of a study: what was drawn and trained for it, with the settings that its numbers are made by.

`config.yaml` and `manifest.json` say how it was made, `candidates/` and `checkpoints/` hold the pools, `updates/` the logs of
the trainings. The manifest is written last: a folder that has one is complete (see `progress` for one that is not).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bon import Candidates
from suite.config.planned import upgraded_plan
from suite.config.run import RunConfig
from suite.metrics.cost import request_flops_at
from suite.metrics.results import Scores, stored_scores
from suite.runtime.errors import UserError, one_line
from suite.runtime.files import write_json
from suite.studies.pool_files import (
    load_checkpoints,
    load_pool,
    read_facts,
    save_checkpoints,
    save_curves,
    save_pool,
    save_scores,
)
from suite.studies.progress import progress

#: Of everything in a study's folder; a change that old files cannot be read with makes it one more.
SCHEMA = 2
#: The schemas that are read. Numbers of the first hold no objective: the study's plan had none that was searched for.
READABLE = (1, 2)
#: The base policy's pool, and its larger one.
BASE, OPTIMUM = "base", "optimum"
#: Where the pools of policies that trainings give beside their own are kept.
CHANGED = "changed"

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Trained:
    """One training: its policies on the evaluation prompts, and what it cost.

    Attributes:
        method, setting, seed: what was trained; `setting` as in the rows, blank where nothing was swept.
        pools: update -> pool of the policy after it, the last with the most candidates; earlier ones have lost their tokens.
        tokens, flops, seconds, reward_tokens: of the training; the last is None in folders that do not say.
        kl_coef: what it paid for a nat of KL; None where there is no such key, or the folder does not say.
        log: rows of its updates; empty once it is read back.
        stages: seconds of everything that was done for it, by stage.
        changed: (method, setting) -> pool of a policy that it gives beside its own: `ppo_line` at `step=0.5`, `ppo_ema`.
    """

    method: str
    setting: str
    seed: int
    pools: dict[int, Candidates]
    tokens: int
    flops: int
    seconds: float
    reward_tokens: int | None = None
    kl_coef: float | None = None
    log: Sequence[Mapping[str, Any]] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    changed: Mapping[tuple[str, str], Candidates] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stem of its files."""
        return training_name(self.method, self.setting, self.seed)

    @property
    def label(self) -> str:
        """Key of what is common to all its seeds, in the findings."""
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
    """Contents of a study's folder.

    Attributes:
        base: the base policy's pool.
        trained: every training.
        settings: the study's own keys.
        resamples: bootstrap samples behind its intervals.
        policy_flops, proxy_flops: of a token through these models, forward.
        optimum: scores of more candidates of the base policy on the first prompts; None where there are none.
        schema: of the folder.
        policy: the name of the base policy.
    """

    base: Candidates
    trained: list[Trained]
    settings: Any
    resamples: int
    policy_flops: int
    proxy_flops: int
    optimum: Scores | None = None
    schema: int = SCHEMA
    policy: str = ""

    def request_flops(self, pool: Candidates) -> NDArray[np.float64]:
        """FLOPs of a request by best-of-n of a pool's policy, for every prompt and n: [P, N]."""
        return request_flops_at(pool, self.policy_flops, self.proxy_flops)

    def groups(self) -> dict[str, list[Trained]]:
        """Label -> its trainings, a seed each."""
        found: dict[str, list[Trained]] = {}
        for training in self.trained:
            found.setdefault(training.label, []).append(training)
        return found


def training_name(method: str, setting: str, seed: int) -> str:
    """The stem of a training's files: `ppo-kl_coef=0.2-seed1`."""
    return "-".join(part for part in (method, setting, f"seed{seed}") if part)


def save_base(folder: Path, pool: Candidates, recipe: str = "") -> None:
    """Store the base policy's pool."""
    facts = {"method": BASE, "setting": "", "seed": 0, "step": None, "recipe": recipe}
    save_pool(pool, folder / "candidates" / f"{BASE}.parquet", facts)


def save_optimum(folder: Path, blocks: Iterable[Candidates], recipe: str = "") -> None:
    """Store the base policy's larger pool, which comes block by block, without its tokens."""
    save_scores(blocks, folder / "candidates" / f"{OPTIMUM}.parquet", {"method": BASE, "seed": 0, "recipe": recipe})


def save_trained(folder: Path, trained: Trained, recipe: str = "", made: Mapping[str, Any] | None = None) -> None:
    """Store a training's pools and log, the final pool last: where that is, the rest is too.

    `made` says by what code, on which machine.
    """
    kept = ("method", "setting", "seed", "tokens", "flops", "reward_tokens", "kl_coef")
    facts = {**{key: getattr(trained, key) for key in kept}, "training_seconds": trained.seconds}
    earlier = {step: pool for step, pool in trained.pools.items() if step != trained.last}
    if earlier:
        save_checkpoints(earlier, folder / "checkpoints" / f"{trained.name}.parquet", facts)
    if trained.changed:
        numbered = dict(enumerate(trained.changed.values()))
        policies = {"policies": [list(policy) for policy in trained.changed]}
        save_checkpoints(numbered, folder / CHANGED / f"{trained.name}.parquet", {**facts, **policies})
    if trained.log:
        save_curves(trained.log, folder / "updates" / f"{trained.name}.parquet", facts)
    last = {"step": trained.last, "pools": len(trained.pools), "stages": dict(trained.stages), "recipe": recipe}
    save_pool(trained.final, folder / "candidates" / f"{trained.name}.parquet", {**facts, **last, "made": dict(made or {})})


def save_facts(
    folder: Path, study: str, settings: Any, run: RunConfig, trainings: Mapping[str, int], facts: Mapping[str, Any]
) -> None:
    """Store how it was all made, and with that declare the folder complete; `trainings` has the pools of each."""
    text = OmegaConf.to_yaml(OmegaConf.create({"study": asdict(settings), "run": asdict(run)}))
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    own = {"schema": SCHEMA, "study": study, "trainings": dict(trainings)}
    write_json(folder / "manifest.json", {**own, **facts})


def load_study(folder: Path, study: str, kind: type[Settings]) -> Stored:
    """Read the folder of a study.

    Raises:
        UserError: it is missing, incomplete or of another schema; the message has the command that makes it.
    """
    if (found := progress(folder)) is not None:
        raise UserError(f"study {study}: {folder} is unfinished, {found} are there; {going_on(study, folder)}")
    facts = _manifest(folder, study)
    try:
        config: Any = OmegaConf.load(folder / "config.yaml")
        section = upgraded_plan(OmegaConf.to_container(config["study"]))  # type: ignore[arg-type]
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), section))
        assert is_dataclass(settings)
        base, _ = load_pool(folder / "candidates" / f"{BASE}.parquet")
        trained = [_training(folder, name, steps, base) for name, steps in facts["trainings"].items()]
        flops = facts["flops_per_token"]
        large = folder / "candidates" / f"{OPTIMUM}.parquet"
        optimum = stored_scores(large) if large.is_file() else None
        run = config["run"]
        made_by = int(run["resamples"]), flops["policy"], flops["proxy"]
        return Stored(base, trained, settings, *made_by, optimum, facts["schema"], str(run["policy"]["name"]))
    except (OSError, KeyError, TypeError, ValueError, OmegaConfBaseException) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{folder} cannot be read ({reason}); {remedy(folder, study)}") from None
    except UserError as error:
        raise UserError(f"{error}; {remedy(folder, study)}") from None


def going_on(study: str, folder: Path) -> str:
    """Say what to do about a study that is unfinished."""
    return f"go on with: python experiments/reproduce.py --from-scratch studies=[{study}] output={folder.parent}"


def remedy(folder: Path, study: str) -> str:
    """Say what to do about a study that is missing or unreadable."""
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
    if found not in READABLE:
        read = " and ".join(map(str, READABLE))
        raise UserError(f"study {study}: {folder} has schema {found}, this version reads {read}; {remedy(folder, study)}")
    return dict(facts)


def _training(folder: Path, name: str, steps: int, base: Candidates) -> Trained:
    final, facts = load_pool(folder / "candidates" / f"{name}.parquet")
    if [list(ids) for ids in final.prompt_token_ids] != [list(ids) for ids in base.prompt_token_ids]:
        raise UserError(f"{folder}/candidates/{name}.parquet has other prompts than the base policy's pool")
    earlier = {}
    if steps > 1:
        earlier = load_checkpoints(folder / "checkpoints" / f"{name}.parquet", final.prompt_token_ids)
    changed: dict[tuple[str, str], Candidates] = {}
    beside = folder / CHANGED / f"{name}.parquet"
    if beside.is_file():
        pools = load_checkpoints(beside, final.prompt_token_ids)
        policies = (read_facts(beside) or {})["policies"]
        changed = {(method, setting): pools[k] for k, (method, setting) in enumerate(policies)}
    return Trained(
        method=facts["method"],
        setting=facts["setting"],
        seed=facts["seed"],
        pools={**earlier, facts["step"]: final},
        tokens=facts["tokens"],
        flops=facts["flops"],
        seconds=facts["training_seconds"],
        reward_tokens=facts.get("reward_tokens"),
        kl_coef=facts.get("kl_coef"),
        changed=changed,
    )
