"""Trackio and TensorBoard hold what a run's files say: each is read back by its own reader."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tracked import LOG, UPDATES, settings, write_run

from suite.config.run import TrackingConfig
from suite.tracking.jobs import read_jobs
from suite.tracking.protocol import Histogram, Picture, Table
from suite.tracking.tracker import open_backend, replay

PROJECT = "best-of-n-tests"


@pytest.fixture(scope="module")
def run(tmp_path_factory, random_pools, compose_config):
    folder = tmp_path_factory.mktemp("results") / "a run"
    write_run(folder, random_pools, settings(compose_config))
    return folder


@pytest.fixture(scope="module")
def jobs(run):
    return {job.method: job for job in read_jobs(run)}


@pytest.fixture(scope="module")
def events(run):
    """{method: what TensorBoard's reader finds}, after a replay that replaced another one."""
    pytest.importorskip("tensorboard", reason='pip install -e ".[tracking]"')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backend = open_backend(TrackingConfig(name="tensorboard"), run)
    replay(backend, run)
    replay(backend, run)
    found = {}
    for folder in sorted((run / "tensorboard").iterdir()):
        (file,) = folder.iterdir()  # the second replaced the first
        found[folder.name] = EventAccumulator(str(file), size_guidance={"scalars": 0, "histograms": 0}).Reload()
    return found


def test_tensorboard_has_every_value(jobs, events):
    assert set(events) == set(jobs)
    seen = 0
    for method, job in jobs.items():
        for entry in job.entries:
            for key, value in entry.values.items():
                step = entry.at or 0
                if isinstance(value, Histogram):
                    (event,) = (e for e in events[method].Histograms(key) if e.step == step)
                    assert event.histogram_value.bucket == pytest.approx(value.counts)
                    assert event.histogram_value.bucket_limit == pytest.approx(value.edges[1:])
                elif isinstance(value, Picture):
                    (event,) = events[method].Images(key)
                    with Image.open(value.path) as image:
                        assert (event.width, event.height) == image.size
                elif isinstance(value, Table):
                    (event,) = events[method].Tensors(f"{key}/text_summary")
                    lines = event.tensor_proto.string_val[0].decode().splitlines()
                    assert len(lines) == 2 + len(value.rows)
                else:
                    (event,) = (e for e in events[method].Scalars(key) if e.step == step)
                    assert event.value == pytest.approx(value, rel=1e-6)
                seen += 1
    assert seen > 300


@pytest.fixture(scope="module")
def trackio_runs(run):
    """{method: (run's record, its logs)} by Trackio's own storage, after a first half and a replay of the rest."""
    place = Path(os.environ["TRACKIO_DIR"])  # of these tests: conftest.py
    pytest.importorskip("trackio", reason='pip install -e ".[tracking]"')
    from trackio import sqlite_storage, utils

    assert place == utils.TRACKIO_DIR
    backend = open_backend(TrackingConfig(name="trackio", project=PROJECT), run)
    for job in read_jobs(run):
        mirror = backend.open(job)
        for index, entry in enumerate(job.entries[: len(job.entries) // 2]):
            mirror.log(index, entry)
        mirror.close(whole=False)
    done = replay(backend, run)
    storage = sqlite_storage.SQLiteStorage
    records = {record["name"]: record for record in storage.get_run_records(PROJECT)}
    found = {}
    for job in read_jobs(run):
        name = f"{job.name}-{job.identity[:6]}"
        logs = storage.get_logs(PROJECT, name)
        found[job.method] = records.pop(name), storage.get_run_config(PROJECT, name), logs
    assert not records
    artifacts = storage.get_artifacts(PROJECT)
    return found, done, artifacts


def test_trackio_has_every_value_once(jobs, trackio_runs):
    found, done, _ = trackio_runs
    for method, job in jobs.items():
        assert done[method] == (len(job.entries) - len(job.entries) // 2, len(job.entries))
        _, config, logs = found[method]
        assert config["_Group"] == "a run"
        assert config["job_type"] == method
        assert config["n"] == 4
        assert [log["step"] for log in logs] == list(range(len(job.entries)))
        for entry, log in zip(job.entries, logs, strict=True):
            assert set(log) - {"step", "timestamp"} == set(entry.values) | ({entry.axis} if entry.axis else set())
            if entry.axis:
                assert log[entry.axis] == entry.at
            for key, value in entry.values.items():
                if isinstance(value, Histogram):
                    assert log[key]["values"] == pytest.approx(value.counts)
                    assert log[key]["bins"] == pytest.approx(value.edges)
                elif isinstance(value, Table):
                    rows = [list(row.values()) for row in log[key]["_value"]]
                    assert json.loads(json.dumps(rows)) == json.loads(json.dumps([list(row) for row in value.rows]))
                elif isinstance(value, Picture):
                    assert log[key]["_type"] == "trackio.image"
                else:
                    assert log[key] == pytest.approx(value)


def test_trackio_keeps_artifacts(trackio_runs):
    names = {artifact["name"] for artifact in trackio_runs[2]}
    assert {"a-run-pool-base", "a-run-pool-ppo", "a-run-ppo-policy", "a-run-metrics", "a-run-figures"} <= names


def test_the_updates_are_the_logs(jobs):
    entries = jobs["ppo"].entries[:UPDATES]
    for row, entry in zip(LOG, entries, strict=True):
        assert entry.at == row["update"]
        assert entry.values["ppo/objective/kl"] == row["objective/kl"]
    assert np.cumsum([row["tokens"] for row in LOG]).tolist() == [entry.values["cost/training_tokens"] for entry in entries]
