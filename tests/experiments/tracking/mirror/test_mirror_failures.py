"""Whatever happens to W&B, its process or the network: what is mirrored in the end is what a replay mirrors."""

import json
import logging
import os
import signal

import psutil
import pytest
import wandb
from tracked import JOBS, LOG, OFFLINE, UPDATES, history, read_offline, write_results

from suite.config.run import TrackingConfig
from suite.runtime.errors import UserError
from suite.tracking.jobs import read_jobs
from suite.tracking.protocol import Job
from suite.tracking.to_wandb import WandbBackend
from suite.tracking.tracker import Tracker, replay


def followed(config, folder, pools, spoil=lambda update: None):
    """A run whose tracker is there all the time."""
    with Tracker(WandbBackend(OFFLINE, folder, wait=5.0), folder, config) as tracker:
        for update in range(1, UPDATES + 1):
            tracker.updated(LOG[:update])
            spoil(update)
    write_results(folder, pools)
    tracker.finished({"ppo": folder.parent / "checkpoint"})


def test_a_live_mirror_and_a_replay_are_the_same(run, replayed, random_pools, config, tmp_path):
    folder = tmp_path / "a run"
    followed(config, folder, random_pools)
    live = read_offline(folder)
    assert {method: history(records) for method, records in live.items()} == {m: history(r) for m, r in replayed.items()}
    before = {method: records["run"][0]["run_id"] for method, records in live.items()}
    replay(WandbBackend(OFFLINE, folder), folder)  # read_offline refuses two runs of a job
    assert {method: records["run"][0]["run_id"] for method, records in read_offline(folder).items()} == before


def test_wandbs_process_may_be_killed(replayed, random_pools, config, tmp_path, caplog):
    def spoil(update):
        if update == 2:
            cores = [child for child in psutil.Process().children(recursive=True) if "wandb-core" in child.name()]
            assert cores
            for core in cores:
                os.kill(core.pid, signal.SIGKILL)
                core.wait()

    folder = tmp_path / "a run"
    with caplog.at_level(logging.WARNING):
        followed(config, folder, random_pools, spoil)
    assert "dashboard.py --replay" in caplog.text
    assert str(folder) in caplog.text
    assert [row["update"] for row in map(json.loads, (folder / "updates.jsonl").read_text().splitlines())] == [1, 2, 3, 4]
    whole = read_offline(folder)  # what was lost while it went on is there at the end
    assert {method: history(records) for method, records in whole.items()} == {m: history(r) for m, r in replayed.items()}


def test_a_dead_network_is_waited_for_once(monkeypatch, caplog, run, config, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    try:
        backend = WandbBackend(TrackingConfig(name="wandb", mode="online"), tmp_path / "mirror", wait=1.0)
        assert backend.mode == "online"
        with caplog.at_level(logging.WARNING):
            replay(backend, run[0])
        assert backend.mode == "offline"
        assert caplog.text.count("going on offline") == 1
        assert "wandb sync" in backend.told()
        assert set(read_offline(tmp_path / "mirror")) == JOBS
    finally:
        wandb.teardown()


def test_what_a_server_has_is_not_logged_again(run):
    class Half:
        """A backend that holds the first three entries of every job."""

        def __init__(self):
            self.indices, self.kept, self.logged = [], [], 3

        def open(self, job):
            self.indices.append([])
            return self

        def log(self, index, entry):
            self.indices[-1].append(index)

        def keep(self, inputs, outputs):
            self.kept.append([files.kind for files in outputs])

        def close(self, whole):
            assert whole

    half = Half()
    done = replay(half, run[0])
    sizes = {job.method: len(job.entries) for job in read_jobs(run[0])}
    assert half.indices == [list(range(3, size)) for size in sizes.values()]
    assert done == {method: (max(0, size - 3), size) for method, size in sizes.items()}
    assert half.kept == [["pool"], ["pool", "policy"], ["metrics"], ["figures"]]


def test_an_alert_goes_to_the_open_job_and_a_dead_backend_ends_nothing(config, tmp_path, caplog):
    told = []

    class Watched:
        """A backend whose alerts are kept, until it dies."""

        logged = 0

        def open(self, job):
            return self

        def log(self, index, entry):
            """Keep nothing."""

        def warn(self, kind, text):
            if told:
                raise OSError("gone")
            told.append((kind, text))

        def reset(self):
            """Nothing is open."""

    tracker = Tracker(Watched(), tmp_path, config)
    with tracker:
        tracker.warned({"first": "jumped"})  # nothing is open yet
        tracker.updated(LOG)
        tracker.warned({"first": "jumped"})
        tracker.warned({"objective": "below"})
    assert told == [("first", "jumped")]
    assert "did not take an alert (OSError: gone)" in caplog.text


def test_a_backend_that_refuses_is_one_line(monkeypatch, run):
    def init(**_):
        raise RuntimeError("permission\ndenied")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(UserError, match=r"best_of_n was not taken: permission denied$"):
        replay(WandbBackend(OFFLINE, run[0]), run[0])


def test_an_entity_without_rights_is_one_line_and_then_offline(monkeypatch, caplog, config, tmp_path):
    opened = []

    def init(**options):
        opened.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("permission denied\n(Error 403)")
        raise RuntimeError("as far as this test goes")

    monkeypatch.setattr(wandb, "init", init)
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError):
        WandbBackend(TrackingConfig(name="wandb", mode="online"), tmp_path).open(Job("g", "ppo", 0, "x", config))
    assert opened == ["online", "offline"]
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "W&B does not take the run (permission denied)"
    ]
