"""Nothing is lost: a run that is killed leaves whole files, goes on where it was, and is logged from its files."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from tracked import LOG, history, read_offline

from suite.config.run import TrackingConfig
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY
from suite.tracking.jobs import read_jobs
from suite.tracking.record import UpdateLog, begin, finish, read_state, read_updates
from suite.tracking.to_wandb import WandbBackend
from suite.tracking.tracker import replay

CONFIG = {"seed": 0, "baseline": {"name": "ppo"}}


def test_the_log_grows_by_a_line_an_update(tmp_path):
    log = UpdateLog(tmp_path)
    for count in (1, 2, 4):
        log.write(LOG[:count])
        assert read_updates(tmp_path) == LOG[:count]


@pytest.mark.parametrize("left", [0, 1, 3], ids=lambda left: f"{left} rows left")
def test_a_log_goes_on(tmp_path, left):
    UpdateLog(tmp_path).write(LOG[:left])
    UpdateLog(tmp_path).write(LOG[:2])
    assert read_updates(tmp_path) == LOG[:2]
    UpdateLog(tmp_path).write(LOG)
    assert read_updates(tmp_path) == LOG


def test_a_line_that_was_cut_is_left_out_and_then_whole(tmp_path):
    UpdateLog(tmp_path).write(LOG[:3])
    path = tmp_path / "updates.jsonl"
    path.write_text(path.read_text()[:-5])
    assert read_updates(tmp_path) == LOG[:2]
    UpdateLog(tmp_path).write(LOG)
    assert read_updates(tmp_path) == LOG


def test_rows_of_another_training_are_replaced(tmp_path):
    UpdateLog(tmp_path).write([{**row, "seconds": 9.0} for row in LOG])
    UpdateLog(tmp_path).write(LOG[:3])
    assert read_updates(tmp_path) == LOG[:3]


def test_an_interrupted_run_keeps_its_identity(tmp_path):
    begin(tmp_path, CONFIG)
    first = read_state(tmp_path)
    UpdateLog(tmp_path).write(LOG)
    begin(tmp_path, CONFIG)
    assert read_state(tmp_path) == first
    assert read_updates(tmp_path) == LOG
    begin(tmp_path, {**CONFIG, "seed": 1})  # another configuration under the same name
    assert read_state(tmp_path)["identity"] != first["identity"]
    assert read_updates(tmp_path) == []


def test_a_finished_run_is_another_when_it_is_started_again(tmp_path):
    begin(tmp_path, CONFIG)
    first = read_state(tmp_path)
    finish(tmp_path, {})
    assert read_state(tmp_path)["identity"] == first["identity"]
    begin(tmp_path, CONFIG)
    assert read_state(tmp_path)["identity"] != first["identity"]


def test_a_run_without_an_update_has_nothing_to_log(tmp_path):
    begin(tmp_path, CONFIG)
    with pytest.raises(UserError, match="was stopped before its first update"):
        read_jobs(tmp_path)


def stopped(process, folder, number, updates):
    """Sends a signal as soon as this many updates are on disk; returns what the run had said."""
    while process.poll() is None and len(read_updates(folder)) < updates:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == (143 if number == signal.SIGTERM else -number), out + err
    assert updates <= len(read_updates(folder)) < 12
    assert not read_state(folder)["finished"]
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "tracking.json", "updates.jsonl", "wandb"}
    return err


def test_a_run_is_killed_then_terminated_then_goes_on_to_its_end(start, models, tmp_path):
    arguments = [
        "experiment=smoke", "tracking=wandb", f"policy.path={models}/policy", f"reward.proxy.path={models}/proxy",
        f"reward.gold.path={models}/gold", f"results={tmp_path}/results", f"cache={tmp_path}/cache", "name=stopped",
        "baseline.updates=12", "baseline.checkpoint_every=6", "baseline.num_ppo_epochs=1", "baseline.batch_size=4",
    ]  # fmt: skip
    folder = tmp_path / "results" / "stopped"

    stopped(start(*arguments, cwd=tmp_path), folder, signal.SIGKILL, 3)
    left = read_updates(folder)
    script = [sys.executable, str(REPOSITORY / "experiments" / "dashboard.py"), "--replay", str(folder)]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ppo: {len(left)} of {len(left)} entries logged" in done.stdout
    partial = history(read_offline(folder)["ppo"])  # the killed run's own mirror is gone: this one has all of it
    assert [item["ppo/objective/kl"] for item in partial] == [row["objective/kl"] for row in left]

    for mirror in (folder / "wandb").glob("offline-run-*"):
        shutil.rmtree(mirror)
    told = stopped(start(*arguments, cwd=tmp_path), folder, signal.SIGTERM, len(left) + 1)
    assert "finished candidates and checkpoints are kept" in told
    live = read_offline(folder)["ppo"]
    assert [item["update"] for item in history(live)] == [row["update"] for row in read_updates(folder)]
    assert live["exit"][0]["exit_code"] == 1

    process = start(*arguments, cwd=tmp_path)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, out + err
    assert [row["update"] for row in read_updates(folder)] == list(range(1, 13))
    assert read_state(folder)["finished"]
    live = {method: history(records) for method, records in read_offline(folder).items()}
    assert set(live) == {"best_of_n", "ppo", "comparison", "figures"}
    replay(WandbBackend(TrackingConfig(name="wandb", mode="offline"), folder), folder)
    assert {method: history(records) for method, records in read_offline(folder).items()} == live
