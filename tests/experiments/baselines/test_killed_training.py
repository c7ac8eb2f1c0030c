"""A training that is killed at some update and started again ends with the bits of one that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killed_training import UPDATES
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[1] / "killed_training.py"
#: Checkpoints after whose appearance a training is killed: early, in the middle, and how far into what follows (seconds).
KILLS = {"early": ("checkpoint-000002", 0.0), "later": ("checkpoint-000009", 0.15)}
#: Of the clock, not of the training.
CLOCK = ("seconds", "tokens_per_second", "eps")


def started(models, *folders):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), str(models), *map(str, folders)], env=environment)


@pytest.fixture(scope="module")
def trained(models, tmp_path_factory):
    """The folder of a whole training and of each that was killed, with what the killed ones had left: name -> checkpoints."""
    folder, left = tmp_path_factory.mktemp("trained"), {}
    for name, (seen, later) in KILLS.items():
        process = started(models, folder / name)
        deadline = time.monotonic() + 300
        while not (folder / name / seen).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(later)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
        left[name] = {path.name: path.stat().st_mtime_ns for path in (folder / name).glob("checkpoint-*")}
    assert started(models, folder / "whole", *(folder / name for name in KILLS)).wait(timeout=600) == 0
    return folder, left


def checkpoint(folder, update=UPDATES):
    return folder / f"checkpoint-{update:06d}"


@pytest.mark.parametrize("name", KILLS)
def test_it_was_killed_on_its_way_and_went_on_from_there(trained, name):
    folder, left = trained
    assert KILLS[name][0] in left[name]
    assert checkpoint(folder / name).name not in left[name]
    assert not list((folder / name).glob(".writing-*"))
    # All but the newest have not been written again; that one loses its optimizer when the next one is there.
    for earlier in left[name]:
        policy, whole = (folder / run / earlier / "model.safetensors" for run in (name, "whole"))
        assert policy.stat().st_mtime_ns < whole.stat().st_mtime_ns


@pytest.mark.parametrize("name", KILLS)
def test_parameters_are_equal_bit_for_bit(trained, name):
    folder, _ = trained
    for update in (*range(3, UPDATES, 3), UPDATES):
        one, other = (load_file(checkpoint(folder / run, update) / "model.safetensors") for run in (name, "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), update
    one, other = (load_file(checkpoint(folder / run) / "critic.safetensors") for run in (name, "whole"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    one, other = (torch.load(checkpoint(folder / run) / "optimizer.pt", weights_only=True) for run in (name, "whole"))
    for index, state in one["state"].items():
        assert all(torch.equal(state[key], other["state"][index][key]) for key in state)


@pytest.mark.parametrize("name", KILLS)
def test_metrics_are_equal(trained, name):
    folder, _ = trained
    logs = []
    for run in (name, "whole"):
        rows = [json.loads(line) for line in (checkpoint(folder / run) / "updates.jsonl").read_text().splitlines()]
        logs.append([{key: value for key, value in row.items() if key not in CLOCK} for row in rows])
    assert [row["update"] for row in logs[0]] == list(range(1, UPDATES + 1))
    assert logs[0] == logs[1]
    assert len(logs[0][0]) > 20


def test_training_changes_something(trained):
    folder, _ = trained
    first, last = (load_file(checkpoint(folder / "whole", update) / "model.safetensors") for update in (1, UPDATES))
    assert any(not torch.equal(first[key], last[key]) for key in first)
