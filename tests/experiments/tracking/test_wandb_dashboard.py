"""The dashboard names no key that runs do not log; it is made once and then updated; every refusal is one line."""

import json
import subprocess
import sys

import pytest
import wandb
from tracked import logged_keys, read_offline, settings, write_run

from suite.config.baselines import TRAINERS
from suite.config.run import TrackingConfig
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY
from suite.tracking.keys import look_up, table
from suite.tracking.to_wandb import WandbBackend
from suite.tracking.tracker import replay

pytest.importorskip("wandb_workspaces", reason='pip install -e ".[tracking]"')
from wandb_server import running

from suite.tracking.wandb_dashboard import NAME, as_json, keys, sections
from suite.tracking.wandb_dashboard_save import parse_project, save


@pytest.fixture(scope="module")
def logged(tmp_path_factory, random_pools, compose_config):
    """The keys that a real offline run wrote, the keys of its training log aside."""
    folder = tmp_path_factory.mktemp("results") / "run"
    write_run(folder, random_pools, settings(compose_config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder.parent))
        replay(WandbBackend(TrackingConfig(name="wandb", mode="offline"), folder), folder)
    return {key for records in read_offline(folder).values() for key in logged_keys(records)}


def named():
    return set(keys(as_json("me", "p")))


def test_every_key_was_logged_by_a_real_run(logged):
    """Keys of training logs are held against real trainings, in test_tracked_updates.py."""
    assert {key for key in named() - logged if key.split("/")[0] not in TRAINERS} == set()
    assert len(named() & logged) > 15


def test_every_key_is_in_the_schema():
    assert [key for key in named() if look_up(key) is None] == []


def test_a_renamed_key_would_fail(logged, monkeypatch):
    monkeypatch.setattr("suite.tracking.wandb_dashboard.sections", lambda: {"x": [sections()["Win rate"][0]]})
    assert named() <= logged
    panel = sections()["Win rate"][0]
    panel.y = ["bon/winrate"]
    monkeypatch.setattr("suite.tracking.wandb_dashboard.sections", lambda: {"x": [panel]})
    assert named() - logged == {"bon/winrate"}


def test_everything_the_dashboard_promises_is_there():
    assert set(sections()) >= {"Reward against n", "Reward against KL", "Win rate", "Histograms", "Samples",
                               "Cost and break-even", "PPO health", "Runs"}  # fmt: skip
    kinds = [panel["viewType"] for panel in walk(as_json("me", "p")["workspace"]) if "viewType" in panel]
    assert {"Run History Line Plot", "Scatter Plot", "Bar Chart", "Media Browser", "Run Comparer", "Vega2"} <= set(kinds)
    bands = [panel for panel in walk(as_json("me", "p")) if panel.get("groupArea") == "stddev"]
    assert all(panel["groupBy"] == "jobType" for panel in bands)
    assert len(bands) > 20


def walk(value):
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def test_docs_show_the_schema_as_it_is():
    assert table() in (REPOSITORY / "docs" / "experiments" / "tracking.md").read_text(encoding="utf-8")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """W&B's real client, talking to a server on loopback."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with running() as (served, address):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        wandb.teardown()
        yield served
        wandb.teardown()


def test_it_is_made_once_and_then_updated(server):
    first = save("me", "p")
    assert [line.split()[:2] for line in first] == [["made", "workspace"], ["made", "report"]]
    assert {view["type"] for view in server.views.values()} == {"project-view", "runs"}
    assert {view["displayName"] for view in server.views.values()} == {NAME}
    names = {view["name"] for view in server.views.values() if view["type"] == "project-view"}
    for view in server.views.values():
        view["spec"] = "{}"
    again = save("me", "p")
    assert [line.split()[:2] for line in again] == [["updated", "workspace"], ["updated", "report"]]
    assert len(server.views) == 2
    assert {view["name"] for view in server.views.values() if view["type"] == "project-view"} == names
    for view in server.views.values():
        assert "bon/gold" in view["spec"]  # it was written anew


def test_anothers_views_are_left_alone(server):
    other = {"id": "other", "name": "nw-other-v", "displayName": "mine", "type": "project-view", "spec": "{}"}
    server.views["other"] = dict(other)
    save("me", "p")
    assert server.views["other"] == other
    assert len(server.views) == 3


def test_refusals_are_one_line(server):
    with pytest.raises(UserError, match="there is no project me/q, or this key may not see it") as caught:
        save("me", "q")
    server.refuse = "permission denied"
    with pytest.raises(UserError, match=r"refuses to change me/p: .*permission denied") as refused:
        save("me", "p")
    assert "\n" not in str(caught.value) + str(refused.value)
    assert server.views == {}


def test_without_a_key_nothing_is_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(UserError, match="there is no W&B key: run `wandb login`"):
        save("me", "p")


@pytest.mark.parametrize("text", ["p", "/p", "me/", "me/p/x"])
def test_a_project_has_an_entity(text):
    with pytest.raises(UserError, match="must be entity/project"):
        parse_project(text)


def command(*arguments, **environment):
    script = [sys.executable, str(REPOSITORY / "experiments" / "dashboard.py"), *map(str, arguments)]
    base = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(script, capture_output=True, text=True, env={**base, **environment}, check=False)


def test_the_command_shows_it_offline(tmp_path):
    done = command("me/p", "--dry-run", HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout).keys() == {"workspace", "report"}
