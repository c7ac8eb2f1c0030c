"""Which mirror there is: none, W&B online or offline, another whose package is missing."""

import logging
from pathlib import Path

import pytest
import wandb
from tracked import LOG, write_results

from suite.config.run import TrackingConfig
from suite.runtime.errors import UserError
from suite.tracking.jobs import read_jobs
from suite.tracking.to_wandb import WandbBackend
from suite.tracking.tracker import open_backend, open_tracker


@pytest.mark.parametrize("off", ["config", "environment"])
def test_off_is_off(monkeypatch, config, run, tmp_path, random_pools, off):
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was touched"))
    monkeypatch.setattr(wandb, "login", lambda **_: pytest.fail("W&B was touched"))
    if off == "environment":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    name = "none" if off == "config" else "wandb"
    tracker = open_tracker(TrackingConfig(name=name), tmp_path / "run", config)
    assert tracker.told() == "off"
    with tracker:
        tracker.updated(LOG)
    write_results(tmp_path / "run", random_pools)
    tracker.finished({})
    assert not (tmp_path / "run" / "wandb").exists()
    assert [len(job.entries) for job in read_jobs(tmp_path / "run")] == [len(job.entries) for job in read_jobs(run[0])]


@pytest.mark.parametrize(("has_key", "mode"), [(True, "online"), (False, "offline")])
def test_without_a_key_it_goes_offline(monkeypatch, tmp_path, has_key, mode):
    asked = []
    monkeypatch.setattr(wandb, "login", lambda **options: asked.append(options) or has_key)
    backend = WandbBackend(TrackingConfig(name="wandb"), tmp_path)
    assert backend.mode == mode
    assert asked == [{"prompt": False, "verify": False}]
    assert "\n" not in backend.told()
    assert ("wandb sync" in backend.told()) == (mode == "offline")


def test_the_real_login_does_not_ask(tmp_path):
    assert WandbBackend(TrackingConfig(name="wandb"), tmp_path).mode == "offline"


def test_a_login_that_fails_means_offline(monkeypatch, caplog, tmp_path):
    def login(**_):
        raise OSError("no home")

    monkeypatch.setattr(wandb, "login", login)
    with caplog.at_level(logging.WARNING):
        assert WandbBackend(TrackingConfig(name="wandb"), tmp_path).mode == "offline"
    assert "no home" in caplog.text


@pytest.mark.parametrize("name", ["trackio", "tensorboard"])
def test_a_missing_package_is_one_line(monkeypatch, tmp_path, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf'^tracking={name}: {name} is not installed; run: pip install -e "\.\[tracking\]"$'):
        open_backend(TrackingConfig(name=name), tmp_path)


def test_a_folder_that_is_no_runs(tmp_path):
    with pytest.raises(UserError, match=r"holds no run: there is no config\.yaml"):
        read_jobs(Path(tmp_path))
