"""A finished run's folder made by hand, in an instant; and what a real offline run of W&B holds, read by W&B's own reader."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.image
import numpy as np
from omegaconf import OmegaConf

from suite.baselines.interface import Training
from suite.comparison.compare import training_rows
from suite.config.run import TrackingConfig
from suite.metrics.evaluation import Study, checkpoint_rows, curve_rows
from suite.metrics.rows import write_rows
from suite.runtime.files import write_json
from suite.tracking.record import UpdateLog, begin, finish

UPDATES = 4
OFFLINE = TrackingConfig(name="wandb", project="best-of-n-tests", mode="offline")
JOBS = {"best_of_n", "ppo", "comparison", "figures"}
FIGURES = ("cost", "reward_distribution", "reward_vs_kl", "reward_vs_n")
#: What W&B adds by itself, and what is another in every run.
OWN = ("_timestamp", "_runtime", "_wandb.runtime", "_step")


def update_row(update):
    return {
        "update": update,
        "objective/kl": 0.5 * update,
        "objective/scores": 1.0 + update,
        "reward/histogram": {"counts": [1, 2, 1], "edges": [0.0, 1.0, 2.0, 3.0]},
        "tokens": 10 * update,
        "reward_tokens": 15 * update,
        "flops": 1000,
        "seconds": 0.25,
    }


LOG = [update_row(update) for update in range(1, UPDATES + 1)]


def rows_of(pools):
    study = Study(pools["base"], 0, 200)
    ones = {method: np.ones(pool.lengths.shape) for method, pool in pools.items()}
    return [
        *curve_rows(study, pools["base"], "base", None, 4, ones["base"]),
        *training_rows("ppo", 0, UPDATES, Training({}, LOG, sum(row["tokens"] for row in LOG), 150, 4000, 1.0)),
        *checkpoint_rows(study, pools["ppo"].first(2), "ppo", 2),
        *curve_rows(study, pools["ppo"], "ppo", UPDATES, 4, ones["ppo"]),
    ]


def settings(compose_config, *overrides):
    return OmegaConf.to_container(compose_config("experiment=smoke", "tracking=wandb", *overrides), resolve=True)


def write_results(folder, pools):
    """Every file of a run but those that its tracker writes."""
    for method, pool in pools.items():
        pool.save(folder / ("candidates.parquet" if method == "base" else f"candidates_{method}.parquet"))
    rows = rows_of(pools)
    write_rows(rows, folder / "metrics.csv")
    worth = {"value": 3.0, "low": 2.5, "high": "inf"}
    compared = {"equivalent_n": worth, "break_even_requests": {"value": 10.0, "low": 5.0, "high": 20.0, "at_most": False}}
    compared["best_of_n_minus_method_at_equal_flops"] = [
        {"k": 1, "n": 1.0, "flops": 1.0, "value": -1.0, "low": -2.0, "high": 0.5}
    ]
    write_json(folder / "findings.json", {"compared": {"ppo": compared}, "overoptimisation": {}})
    (folder / "figures").mkdir(exist_ok=True)
    for name in FIGURES:
        matplotlib.image.imsave(folder / "figures" / f"{name}.png", np.full((4, 6, 3), 0.5))
    return rows


def write_run(folder, pools, config):
    """A finished run, tracked nowhere."""
    begin(folder, config)
    UpdateLog(folder).write(LOG)
    policy = folder.parent / "checkpoint"
    policy.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "optimizer.pt"):
        (policy / name).write_text(name)
    rows = write_results(folder, pools)
    finish(folder, {"ppo": policy})
    return rows


def read_offline(folder):
    """{method: its records by type}; every method has one offline run."""
    leet = Path(sys.executable).with_name("wandb")
    runs = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        done = subprocess.run([leet, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True)
        records = defaultdict(list)
        for record in map(json.loads, done.stdout.splitlines()):
            records[record["type"]].append(record[record["type"]])
        method = records["run"][0]["job_type"]
        assert method not in runs, f"two offline runs of {method}"
        runs[method] = records
    return runs


def history(records):
    """What an offline run logged, without what W&B adds; paths of media end in what the media hold."""
    return [
        {key: value for key, value in item["item"].items() if key not in OWN and "artifact_path" not in key}
        for item in records["history"]
    ]


def logged_keys(records):
    """The keys as the run logged them: a histogram, a table and an image are one key each."""
    kinds = ("_type", "values", "bins")
    keys = set()
    for item in history(records):
        for key in item:
            name, _, end = key.rpartition(".")
            keys.add(name if name and (end in kinds or f"{name}._type" in item) else key)
    return keys
