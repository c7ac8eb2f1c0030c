"""A finished run, mirrored by W&B offline, on a machine that nobody has set up."""

import pytest
from tracked import OFFLINE, read_offline, settings, write_run

from suite.tracking.to_wandb import WandbBackend
from suite.tracking.tracker import replay


@pytest.fixture(autouse=True)
def nobodys_home(monkeypatch, tmp_path):
    """No key, no settings and no leftovers of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="package")
def config(compose_config):
    return settings(compose_config)


@pytest.fixture(scope="package")
def run(tmp_path_factory, random_pools, config):
    """(folder, rows) of a finished run."""
    folder = tmp_path_factory.mktemp("results") / "a run"
    return folder, write_run(folder, random_pools, config)


@pytest.fixture(scope="package")
def replayed(run):
    """{method: records} of a replay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(run[0].parent))
        done = replay(WandbBackend(OFFLINE, run[0]), run[0])
    runs = read_offline(run[0])
    assert {method: len(records["history"]) for method, records in runs.items()} == {m: n for m, (_, n) in done.items()}
    return runs
