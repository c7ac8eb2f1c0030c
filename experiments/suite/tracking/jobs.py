"""A run's own files to everything that is tracked of it. Whoever mirrors a run, now or later, has it from here.

The entries of a job are numbered, and a number always stands for the same entry: what a live run has logged is the beginning
of what its files say, so the rest can follow at any time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bon import Candidates
from bon.estimators import subset_weights
from suite.metrics.naming import title
from suite.metrics.rows import Row, read_rows, select
from suite.metrics.samples import SAMPLE_COLUMNS, sample_table
from suite.metrics.series import tuned_methods
from suite.metrics.vocabulary import SPENT
from suite.runtime.errors import UserError
from suite.runtime.hashing import digest
from suite.tracking.keys import INTERVAL, OBJECTIVES, values_of
from suite.tracking.protocol import Entry, Files, Histogram, Job, Picture, Table, Value
from suite.tracking.record import CONFIG, read_state, read_updates

#: Of a checkpoint's folder: what the policy is loaded from, not what its training goes on with.
_POLICY_FILES = ("*.json", "model*.safetensors")
_SAMPLES, _BINS = 20, 32


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a run.

    Raises:
        UserError: the folder is none of a run's.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} holds no run: there is no {CONFIG}; results/<run> does")
    return yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))


def training_job(folder: Path, config: Mapping[str, Any]) -> Job:
    """The job of the baseline that a run trains, with what is known of it so far: the updates."""
    return _job(folder, config, str(config["baseline"]["name"]), update_entries(config, read_updates(folder)))


def read_jobs(folder: Path) -> list[Job]:
    """Every job of a run, from the files in its folder. Of a run that was stopped: its training so far.

    Raises:
        UserError: the folder is none of a run's, or nothing that is tracked had begun.
    """
    config = read_config(folder)
    state = read_state(folder)
    if not (state["finished"] if state is not None else (folder / "metrics.csv").is_file()):
        if not read_updates(folder):
            raise UserError(f"{folder}: the run was stopped before its first update: there is nothing to log; run it again")
        return [training_job(folder, config)]
    rows = read_rows(folder / "metrics.csv")
    pools = {"base": Candidates.load(folder / "candidates.parquet")}
    for method in tuned_methods(rows):
        pools[method] = Candidates.load(folder / f"candidates_{method}.parquet")
    files = {"best_of_n": _pool_files(folder, "base")}
    jobs = [_job(folder, config, "best_of_n", [*_curve(rows, "best_of_n", None, pools["base"])], outputs=[files["best_of_n"]])]
    for method in tuned_methods(rows):
        files[method] = _pool_files(folder, method)
        entries = [*update_entries(config, read_updates(folder)), *_tuned(folder, rows, method, pools[method])]
        policy = _policy_files(folder, state, method)
        jobs.append(_job(folder, config, method, entries, outputs=[files[method], *policy]))
    metrics = Files(
        _artifact_name(folder, "metrics"), "metrics", _existing(folder, "metrics.csv", "findings.json", "manifest.json")
    )
    drawn = sorted(path for path in (folder / "figures").iterdir() if path.is_file())
    figures = Files(_artifact_name(folder, "figures"), "figures", {path.name: path for path in drawn})
    tables: dict[str, Value] = {"samples": _samples(pools, config["n"]), "frontier": _frontier(rows)}
    jobs.append(_job(folder, config, "comparison", [Entry(tables)], [*files.values()], [metrics]))
    shown: dict[str, Value] = {f"figures/{path.stem}": Picture(path) for path in drawn if path.suffix == ".png"}
    jobs.append(_job(folder, config, "figures", [Entry(shown)], [metrics], [figures]))
    return jobs


def update_entries(config: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """An entry an update: the numbers and histograms of its row, and what training has cost so far."""
    method, spent, entries = str(config["baseline"]["name"]), dict.fromkeys(SPENT, 0.0), []
    for row in log:
        values: dict[str, Value] = {}
        for name, value in row.items():
            if isinstance(value, dict):
                values[f"{method}/{name}"] = Histogram(value["counts"], value["edges"])
            elif name != "update":
                values[f"{method}/{name}"] = value
        for name in spent:
            if name in row:  # logs of earlier versions do not say what the reward model read
                spent[name] += row[name]
                values[f"cost/training_{name}"] = spent[name]
        entries.append(Entry(values, "update", row["update"]))
    return entries


def _job(
    folder: Path,
    config: Mapping[str, Any],
    method: str,
    entries: Sequence[Entry],
    inputs: Sequence[Files] = (),
    outputs: Sequence[Files] = (),
) -> Job:
    state = read_state(folder)
    # A run of an earlier version has no state: it is known by what it found.
    which = state["identity"] if state is not None else (folder / "metrics.csv").read_text(encoding="utf-8")
    identity = digest([folder.name, which, method])
    return Job(folder.name, method, int(config["seed"]), identity, config, entries, inputs, outputs)


def _curve(rows: Sequence[Row], method: str, step: int | None, pool: Candidates) -> Iterator[Entry]:
    """A method's best-of-n against n, with histograms at n = 1, 2, 4, ..., and then its end."""
    first = "base" if method == "best_of_n" else method.removesuffix("+best_of_n")
    of_base = method == "best_of_n"
    gaining = select(rows, method=method if of_base else first, step=step, setting="")
    gained = [row for row in gaining if row.metric in OBJECTIVES]
    curve = [row for row in rows if row.step == step and row.setting == "" and row.metric not in OBJECTIVES]
    own = [row for row in curve if row.method == method or (row.method == first and row.n == 1)]
    for n in sorted({row.n for row in own}):
        measured = [row for row in select(own, n=n) if not row.metric.startswith("training_")]
        values: dict[str, Value] = {**values_of(measured, "bon")}
        if n & (n - 1) == 0:
            values |= {f"bon/{metric}_histogram": _histogram(pool, n, metric) for metric in _judges(pool)}
        yield Entry(values, "n", n)
    last = max(row.n for row in own) if of_base else 1
    ending = [row for row in select(own, n=last) if row.metric in ("proxy", "gold", "win_rate", "kl", "length", "distinct_2")]
    yield Entry({**values_of([*ending, *gained], "final")})


def _tuned(folder: Path, rows: Sequence[Row], method: str, pool: Candidates) -> Iterator[Entry]:
    """A tuned policy's evaluation after every checkpoint, its own best-of-n, and what it is worth."""
    own = [row for row in select(rows, method=method, n=1) if row.metric not in OBJECTIVES]
    steps = sorted({row.step for row in own if row.step is not None})
    for step in steps:
        measured = [row for row in select(own, step=step) if not row.metric.endswith("_per_request")]
        values = values_of([row for row in measured if not row.metric.startswith("training_")], "eval")
        yield Entry({**values}, "update", step)
    yield from _curve(rows, f"{method}+best_of_n", steps[-1], pool)
    found = json.loads((folder / "findings.json").read_text(encoding="utf-8"))["compared"].get(method, {})
    worth: dict[str, Value] = {}
    once = [at for at in found.get("best_of_n_minus_method_at_equal_flops", []) if at["k"] == 1]
    found = {**found, "equal_flops_difference": once[0] if once else None}
    for name in ("equivalent_n", "equal_flops_difference", "break_even_requests"):
        for part, end in (("value", ""), ("low", INTERVAL[0]), ("high", INTERVAL[1])):
            value = (found.get(name) or {}).get(part)
            if isinstance(value, int | float) and math.isfinite(value):  # an infinite number is a string there
                worth[f"cost/{name}{end}"] = value
    if worth:
        yield Entry(worth)


def _judges(pool: Candidates) -> list[str]:
    return [name for name in ("proxy", "gold") if name in pool.scores]


def _histogram(pool: Candidates, n: int, metric: str) -> Histogram:
    """The reward of best-of-n by proxy: every candidate counts by its probability to be the best of n; P responses in all."""
    order = np.argsort(pool.scores["proxy"], axis=1, kind="stable")
    values = np.take_along_axis(pool.scores[metric], order, axis=1)
    edges = np.histogram_bin_edges(values, bins=_BINS)
    weights = np.broadcast_to(subset_weights(pool.num_candidates, n), values.shape)
    counts, _ = np.histogram(values, edges, weights=weights)
    return Histogram(counts.tolist(), edges.tolist())


def _samples(pools: dict[str, Candidates], n: int) -> Table:
    return Table(SAMPLE_COLUMNS, sample_table(pools, n, _SAMPLES))


def _frontier(rows: Sequence[Row]) -> Table:
    """Gold and proxy reward against KL: best-of-n at its bound, tuned policies over training at their measured KL."""
    curves = [("best-of-n, KL upper bound", "bound", [row for row in rows if row.method in ("base", "best_of_n")])]
    for method in tuned_methods(rows):
        curves.append((f"{title(method)}, measured KL", "rao_blackwell", select(rows, method=method, n=1)))
    lines: list[list[Any]] = []
    for name, kind, own in curves:
        for kl in select(own, metric="kl", kl_kind=kind):
            # Without gold the proxy evaluates.
            proxy = select(own, n=kl.n, step=kl.step, metric="proxy")
            rewards = [*(select(own, n=kl.n, step=kl.step, metric="gold") or proxy), *proxy]
            ends = [end for row in rewards for end in (row.value, row.ci_low, row.ci_high)]
            lines.append([name, kl.n, kl.step, kl.value, *ends])
    columns = ["curve", "n", "update", "kl", "gold", "gold_ci_low", "gold_ci_high", "proxy", "proxy_ci_low", "proxy_ci_high"]
    return Table(columns, lines, chart=("kl", "curve", "gold", "Gold reward against KL to the base policy (nats)"))


def _artifact_name(folder: Path, what: str) -> str:
    """Letters, digits, dashes, underscores and dots, 128 at most: what every backend takes."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', folder.name)[:90]}-{what}"


def _pool_files(folder: Path, method: str) -> Files:
    name = "candidates.parquet" if method == "base" else f"candidates_{method}.parquet"
    return Files(_artifact_name(folder, f"pool-{method}"), "pool", {name: folder / name})


def _policy_files(folder: Path, state: Mapping[str, Any] | None, method: str) -> list[Files]:
    """The tuned policy's last checkpoint, if it is still where the run left it."""
    place = (state or {}).get("policies", {}).get(method)
    paths = sorted(path for pattern in _POLICY_FILES for path in Path(place).glob(pattern)) if place else []
    return [Files(_artifact_name(folder, f"{method}-policy"), "policy", {path.name: path for path in paths})] if paths else []


def _existing(folder: Path, *names: str) -> dict[str, Path]:
    return {name: folder / name for name in names if (folder / name).is_file()}
