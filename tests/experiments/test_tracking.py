"""W&B is a mirror: read back from a real offline run; dead, it ends nothing; without a key, it does not ask."""

import json
import logging
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import wandb

from suite import tracking
from suite.baselines import Training
from suite.evaluation import Study, checkpoint_rows, curve_rows
from suite.figures import draw_figures
from suite.schema import TrackingConfig
from suite.tracking import SAMPLE_COLUMNS, Tracker, describe, open_tracker

SETTINGS = {"n": 4, "seed": 3, "policy": {"name": "tiny"}, "task": {"name": "imdb"}}
CONFIG = TrackingConfig(name="wandb", project="best-of-n-tests")
LOG = [
    {
        "update": update,
        "objective/kl": 0.5 * update,
        "objective/scores": 1.0 + update,
        "reward/quantile_50": 1.5,
        "reward/histogram": {"counts": [1, 2, 1], "edges": [0.0, 1.0, 2.0, 3.0]},
    }
    for update in (1, 2, 3, 4)
]
SAMPLES = [["a query", "base text", 0.1, "best text", 0.9, "tuned text", 1.2], ["another", "b", 0.0, "c", 0.5, "d", None]]


@pytest.fixture(scope="module")
def rows(random_pools):
    study = Study(random_pools["base"], 3, 200)
    return [
        *curve_rows(
            study,
            random_pools["base"],
            "base",
            None,
            4,
            np.ones(random_pools["base"].lengths.shape),
        ),
        *checkpoint_rows(study, random_pools["ppo"].first(2), "ppo", 2),
        *curve_rows(
            study,
            random_pools["ppo"],
            "ppo",
            4,
            4,
            np.ones(random_pools["ppo"].lengths.shape),
        ),
    ]


@pytest.fixture
def training(tmp_path):
    return Training(checkpoints={2: tmp_path / "2", 4: tmp_path / "4"}, log=LOG, tokens=100, seconds=1.0)


@pytest.fixture(autouse=True)
def nobodys_home(monkeypatch, tmp_path):
    """No key, no settings and no leftovers of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def read_back(folder):
    """{job type: the records of its offline run, by type}."""
    leet = Path(sys.executable).with_name("wandb")
    runs = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        done = subprocess.run([leet, "leet", "inspect", "--json", str(file)], capture_output=True, text=True, check=True)
        records = defaultdict(list)
        for line in done.stdout.splitlines():
            record = json.loads(line)
            records[record["type"]].append(record[record["type"]])
        runs[records["run"][0]["job_type"]] = records
    return runs


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, rows, random_pools):
    """The offline runs of a comparison, read back: {"best_of_n": records, "ppo": records}."""
    folder = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("WANDB_MODE", raising=False)
        tracker = Tracker(CONFIG, "offline", folder, "a group", SETTINGS)
        figures = draw_figures(rows, random_pools, 4, folder / "figures")
        tracker.best_of_n(rows, 3, figures, SAMPLES)
        tracker.tuned(rows, "ppo", 3, Training(checkpoints={2: folder, 4: folder}, log=LOG, tokens=100, seconds=1.0))
    return read_back(folder), folder


def history(records):
    return [item["item"] for item in records["history"]]


def test_one_run_a_method_in_one_group(mirrored):
    runs, _ = mirrored
    assert set(runs) == {"best_of_n", "ppo"}
    for method, records in runs.items():
        (run,) = records["run"]
        assert run["run_group"] == "a group"
        assert run["project"] == "best-of-n-tests"
        assert run["display_name"] == f"a group-{method}-seed3"
        assert set(run["tags"]) == {"tiny", "imdb"}
        config = run["config"]["update"]
        assert config["n"] == 4
        assert records["exit"] == [{"exit_code": 0, **{k: v for k, v in records["exit"][0].items() if k != "exit_code"}}]


def test_best_of_n_is_logged_against_n(mirrored, rows):
    records = mirrored[0]["best_of_n"]
    assert {"glob_name": "bon/*", "step_metric": "n"}.items() <= records["metric"][-1].items()
    points = {item["n"]: item for item in history(records) if "n" in item}
    assert sorted(points) == list(range(1, 9))
    for row in rows:
        if row.method in ("base", "best_of_n"):
            key = f"bon/{row.metric}" + (f"_{row.kl_kind}" if row.kl_kind else "")
            assert points[row.n][key] == pytest.approx(row.value)
            if row.ci_low is not None:
                assert points[row.n][f"{key}_ci_low"] == pytest.approx(row.ci_low)
                assert points[row.n][f"{key}_ci_high"] == pytest.approx(row.ci_high)
    assert {"bon/proxy", "bon/gold", "bon/win_rate", "bon/kl_bound", "bon/kl_beirami"} <= set(points[8])


def test_samples_and_figures_are_there(mirrored):
    runs, folder = mirrored
    items = history(runs["best_of_n"])
    (table,) = (item for item in items if item.get("samples._type") == "table-file")
    assert (table["samples.nrows"], table["samples.ncols"]) == (2, len(SAMPLE_COLUMNS))
    (file,) = folder.glob("wandb/offline-run-*/files/media/table/samples*.json")
    assert json.loads(file.read_text()) == {"columns": list(SAMPLE_COLUMNS), "data": SAMPLES}
    shown = {key.removesuffix("._type") for item in items for key, value in item.items() if value == "image-file"}
    assert shown == {"figures/reward_vs_n", "figures/reward_vs_kl", "figures/reward_distribution"}
    assert len(list(folder.glob("wandb/offline-run-*/files/media/images/figures/*.png"))) == 3


def test_every_update_of_training_is_there(mirrored):
    records = mirrored[0]["ppo"]
    globs = {metric["glob_name"]: metric["step_metric"] for metric in records["metric"] if "glob_name" in metric}
    assert globs == {"ppo/*": "update", "eval/*": "update"}
    updates = [item for item in history(records) if "ppo/objective/kl" in item]
    assert [item["update"] for item in updates] == [1, 2, 3, 4]
    assert [item["ppo/objective/kl"] for item in updates] == [0.5, 1.0, 1.5, 2.0]
    assert [item["ppo/objective/scores"] for item in updates] == [2, 3, 4, 5]
    for item in updates:
        assert item["ppo/reward/histogram._type"] == "histogram"
        assert item["ppo/reward/histogram.values"] == [1, 2, 1]
        assert item["ppo/reward/histogram.bins"] == [0, 1, 2, 3]


def test_checkpoints_are_evaluated_on_the_same_axis(mirrored, rows):
    items = [item for item in history(mirrored[0]["ppo"]) if "eval/gold" in item]
    assert [item["update"] for item in items] == [2, 4]
    for item in items:
        (row,) = (r for r in rows if (r.method, r.step, r.n, r.metric) == ("ppo", item["update"], 1, "gold"))
        assert item["eval/gold"] == pytest.approx(row.value)
        assert "eval/kl_rao_blackwell" in item


@pytest.mark.parametrize(("job", "method", "n"), [("best_of_n", "best_of_n", 8), ("ppo", "ppo", 1)])
def test_the_summary_holds_the_end(mirrored, rows, job, method, n):
    summary = {}
    for record in mirrored[0][job]["summary"]:
        summary.update(record["update"])
    last = max((row.step or 0) for row in rows if row.method == method)
    for row in rows:
        if (row.method, row.n, row.step or 0, row.metric) == (method, n, last, "gold"):
            assert summary["final/gold"] == pytest.approx(row.value)
            break
    else:
        raise AssertionError("no such row")


class Fake:
    """Stands in for a W&B run; raises where told to."""

    def __init__(self, broken=""):
        self.broken, self.summary, self.calls = broken, {}, []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append(name)
            if name == self.broken:
                raise RuntimeError(f"{name} is broken")

        return call


@pytest.mark.parametrize("broken", ["init", "define_metric", "log", "finish"])
def test_a_dead_mirror_ends_nothing(monkeypatch, caplog, rows, training, tmp_path, broken):
    def init(**_):
        if broken == "init":
            raise ConnectionError("init is broken")
        return Fake(broken)

    monkeypatch.setattr(wandb, "init", init)
    tracker = Tracker(CONFIG, "online", tmp_path, "group", SETTINGS)
    with caplog.at_level(logging.WARNING):
        tracker.best_of_n(rows, 3, [], SAMPLES)
        tracker.tuned(rows, "ppo", 3, training)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    for record, method in zip(caplog.records, ("best_of_n", "ppo"), strict=True):
        assert f"{broken} is broken" in record.getMessage()
        assert method in record.getMessage()
        assert str(tmp_path) in record.getMessage()


@pytest.mark.parametrize("off", ["config", "environment"])
def test_off_is_off(monkeypatch, rows, training, tmp_path, off):
    def touched(*_, **__):
        raise AssertionError("W&B was touched")

    monkeypatch.setattr(wandb, "init", touched)
    monkeypatch.setattr(wandb, "login", touched)
    config = CONFIG
    if off == "config":
        config = TrackingConfig(name="none")
    else:
        monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker = open_tracker(config, tmp_path / "run", "group", SETTINGS)
    assert tracker.mode == "disabled"
    assert describe(tracker) == "off"
    tracker.best_of_n(rows, 3, [], SAMPLES)
    tracker.tuned(rows, "ppo", 3, training)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("has_key", "mode"), [(True, "online"), (False, "offline")])
def test_without_a_key_it_goes_offline(monkeypatch, tmp_path, has_key, mode):
    asked = []

    def login(**options):
        asked.append(options)
        return has_key

    monkeypatch.setattr(wandb, "login", login)
    tracker = open_tracker(CONFIG, tmp_path, "group", SETTINGS)
    assert tracker.mode == mode
    assert asked == [{"prompt": False, "verify": False}]
    assert "\n" not in describe(tracker)
    assert ("wandb sync" in describe(tracker)) == (mode == "offline")
    assert str(tmp_path) in describe(tracker) or mode == "online"


def test_the_real_login_does_not_ask(tmp_path):
    assert open_tracker(CONFIG, tmp_path, "group", SETTINGS).mode == "offline"


def test_a_login_that_fails_means_offline(monkeypatch, caplog, tmp_path):
    def login(**_):
        raise OSError("no home")

    monkeypatch.setattr(wandb, "login", login)
    with caplog.at_level(logging.WARNING):
        assert open_tracker(CONFIG, tmp_path, "group", SETTINGS).mode == "offline"
    assert "no home" in caplog.text


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_mode_that_was_asked_for(monkeypatch, tmp_path, mode):
    monkeypatch.setattr(wandb, "login", lambda **_: pytest.fail("nothing to find out"))
    config = TrackingConfig(name="wandb", mode=mode)
    assert open_tracker(config, tmp_path, "group", SETTINGS).mode == mode
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert open_tracker(config, tmp_path, "group", SETTINGS).mode == "offline"


def test_what_it_hands_to_wandb(monkeypatch, rows, tmp_path):
    given = []

    def init(**options):
        given.append(options)
        return Fake()

    monkeypatch.setattr(wandb, "init", init)
    tracking.Tracker(CONFIG, "offline", tmp_path, "group", SETTINGS).best_of_n(rows, 3, [], SAMPLES)
    (options,) = given
    assert type(options["config"]) is dict
    assert options["mode"] == "offline"
    assert options["dir"] == tmp_path
    assert shutil.which("wandb", path=str(Path(sys.executable).parent))
