"""W&B is a mirror of a run's files: read back from real offline runs; a live mirror and a later one are the same."""

import json
import logging
import os
import signal
from pathlib import Path

import psutil
import pytest
import wandb
from tracked import FIGURES, LOG, UPDATES, history, logged_keys, read_offline, settings, write_results, write_run

from suite.command import UserError
from suite.schema import TrackingConfig
from suite.tracking import SAMPLE_COLUMNS, Tracker, open_backend, open_tracker, replay
from suite.tracking.jobs import read_jobs
from suite.tracking.keys import look_up
from suite.tracking.protocol import Job
from suite.tracking.to_wandb import WandbBackend

CONFIG = TrackingConfig(name="wandb", project="best-of-n-tests", mode="offline")
JOBS = {"best_of_n", "ppo", "comparison", "figures"}


@pytest.fixture(autouse=True)
def nobodys_home(monkeypatch, tmp_path):
    """No key, no settings and no leftovers of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def config(compose_config):
    return settings(compose_config)


@pytest.fixture(scope="module")
def run(tmp_path_factory, random_pools, config):
    """(folder, rows) of a finished run."""
    folder = tmp_path_factory.mktemp("results") / "a run"
    return folder, write_run(folder, random_pools, config)


@pytest.fixture(scope="module")
def replayed(run):
    """{method: records} of a replay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(run[0].parent))
        done = replay(WandbBackend(CONFIG, run[0]), run[0])
    runs = read_offline(run[0])
    assert {method: len(records["history"]) for method, records in runs.items()} == {m: n for m, (_, n) in done.items()}
    return runs


def test_one_run_a_job_in_one_group(replayed, config):
    assert set(replayed) == JOBS
    for method, records in replayed.items():
        (told,) = records["run"]
        assert told["run_group"] == "a run"
        assert told["project"] == "best-of-n-tests"
        assert told["display_name"] == f"a run-{method}-seed0"
        assert set(told["tags"]) == {"tiny", "imdb"}
        logged = {key: value for key, value in told["config"]["update"].items() if key != "_wandb"}
        assert logged == config
        assert records["exit"][0]["exit_code"] == 0


def test_every_key_is_in_the_schema_and_has_its_axis(replayed):
    for method, records in replayed.items():
        globs = {m.get("glob_name") or m["name"]: m.get("step_metric", "") for m in records["metric"]}
        for key in logged_keys(records):
            described = look_up(key)
            assert described is not None, key
            axis = globs.get(key, globs.get(f"{key.split('/')[0]}/*", ""))
            if described.axis and not key.endswith(("_ci_low", "_ci_high")):
                assert axis == described.axis, (method, key)


def test_best_of_n_is_logged_against_n(replayed, run):
    points = {item["n"]: item for item in history(replayed["best_of_n"]) if "n" in item}
    assert sorted(points) == list(range(1, 9))
    compared = 0
    for row in run[1]:
        if row.method in ("base", "best_of_n"):
            prefix = "cost" if row.metric.endswith("_per_request") else "bon"
            key = f"{prefix}/{row.metric}" + (f"_{row.kl_kind}" if row.kl_kind else "")
            assert points[row.n][key] == pytest.approx(row.value)
            if row.ci_low is not None:
                assert points[row.n][f"{key}_ci_low"] == pytest.approx(row.ci_low)
            compared += 1
    assert compared > 80


def test_histograms_are_of_whole_prompts(replayed, random_pools):
    points = {item["n"]: item for item in history(replayed["best_of_n"]) if "n" in item}
    assert [n for n, item in points.items() if "bon/gold_histogram._type" in item] == [1, 2, 4, 8]
    means = {}
    for n in (1, 8):
        counts, edges = (points[n][f"bon/proxy_histogram.{part}"] for part in ("values", "bins"))
        assert sum(counts) == pytest.approx(12)
        means[n] = sum(c * (a + b) / 2 for c, a, b in zip(counts, edges[:-1], edges[1:], strict=True)) / 12
        width = edges[1] - edges[0]
        values = random_pools["base"].scores["proxy"]
        assert means[n] == pytest.approx(values.mean() if n == 1 else values.max(1).mean(), abs=width / 2)


def test_training_and_checkpoints_share_an_axis(replayed, run):
    items = history(replayed["ppo"])
    updates = [item for item in items if "ppo/objective/kl" in item]
    assert [item["update"] for item in updates] == [1, 2, 3, 4]
    assert [item["ppo/objective/scores"] for item in updates] == [2, 3, 4, 5]
    assert [item["cost/training_tokens"] for item in updates] == [10, 30, 60, 100]
    assert updates[0]["ppo/reward/histogram.values"] == [1, 2, 1]
    assert updates[0]["ppo/reward/histogram.bins"] == [0, 1, 2, 3]
    evaluated = [item for item in items if "eval/gold" in item]
    assert [item["update"] for item in evaluated] == [2, 4]
    for item in evaluated:
        (row,) = (r for r in run[1] if (r.method, r.step, r.n, r.metric) == ("ppo", item["update"], 1, "gold"))
        assert item["eval/gold"] == pytest.approx(row.value)
        assert "eval/kl_rao_blackwell" in item
    (worth,) = (item for item in items if "cost/equivalent_n" in item)
    assert worth["cost/equivalent_n"] == 3
    assert "cost/equivalent_n_ci_high" not in worth  # infinite: absent
    assert worth["cost/break_even_requests_ci_high"] == 20
    (end,) = (item for item in items if "final/gold" in item)
    assert end["final/gold"] == evaluated[-1]["eval/gold"]


def test_samples_frontier_and_figures(replayed, run):
    folder, _ = run
    (item,) = history(replayed["comparison"])
    assert (item["samples.nrows"], item["samples.ncols"]) == (12, len(SAMPLE_COLUMNS))
    (file,) = folder.glob("wandb/offline-run-*/files/media/table/samples*.json")
    assert json.loads(file.read_text())["data"][0][0] == "prompt 0"
    (file,) = folder.glob("wandb/offline-run-*/files/media/table/frontier*.json")
    frontier = json.loads(file.read_text())
    table = [dict(zip(frontier["columns"], line, strict=True)) for line in frontier["data"]]
    assert {line["curve"] for line in table} == {"best-of-n, KL upper bound", "PPO, measured KL"}
    assert [line["update"] for line in table if line["curve"].startswith("PPO")] == [2, 4]
    assert sum(line["curve"].startswith("best") for line in table) == 8
    for line in table:
        assert line["gold_ci_low"] <= line["gold"] <= line["gold_ci_high"]
    charts = [r["update"] for r in replayed["comparison"]["config"] if "_wandb.visualize.frontier" in r["update"]]
    assert charts[0]["_wandb.visualize.frontier"]["panel_config"]["panelDefId"] == "wandb/lineseries/v0"
    (item,) = history(replayed["figures"])
    shown = {key.removesuffix("._type") for key, value in item.items() if value == "image-file"}
    assert shown == {f"figures/{name}" for name in FIGURES}


def test_artifacts_say_what_they_were_made_from(replayed):
    made = {a["name"]: a for records in replayed.values() for a in records["artifact"] if a["type"] != "run_table"}
    assert {a["type"] for a in made.values()} == {"pool", "policy", "metrics", "figures"}
    names = {item["path"] for item in made["a-run-ppo-policy"]["manifest"]["contents"]}
    assert names == {"config.json", "model.safetensors"}  # what an optimizer goes on with is no part of a policy
    sources = {name: json.loads(a.get("metadata") or "{}").get("made_from") for name, a in made.items()}
    assert sources["a-run-metrics"] == ["a-run-pool-base", "a-run-pool-ppo"]
    assert sources["a-run-figures"] == ["a-run-metrics"]
    assert sources["a-run-pool-base"] is None


def followed(config, folder, pools, spoil=lambda update: None):
    """A run whose tracker is there all the time."""
    with Tracker(WandbBackend(CONFIG, folder, wait=5.0), folder, config) as tracker:
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
    replay(WandbBackend(CONFIG, folder), folder)  # read_offline refuses two runs of a job
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


def test_online_lineage_is_used(monkeypatch, run):
    given, used, logged = [], [], []

    class Online:
        step, id = 0, "x"

        def __init__(self, options):
            given.append(options)
            self.dir = str(run[0])
            self.settings = type("Settings", (), {"mode": "online"})

        def use_artifact(self, artifact):
            used.append((given[-1]["job_type"], artifact.name))

        def log_artifact(self, artifact):
            logged.append((given[-1]["job_type"], artifact.name))

        def __getattr__(self, name):
            return lambda *_, **__: None

    monkeypatch.setattr(wandb, "init", lambda **options: Online(options))
    replay(WandbBackend(TrackingConfig(name="wandb", mode="online"), run[0]), run[0])
    assert used == [("comparison", "a-run-pool-base"), ("comparison", "a-run-pool-ppo"), ("figures", "a-run-metrics")]
    assert set(used) - {("comparison", name) for _, name in logged} == {("figures", "a-run-metrics")}
    assert {options["resume"] for options in given} == {"allow"}
    assert len({options["id"] for options in given}) == 4
    assert all(type(options["config"]) is dict for options in given)


def test_a_backend_that_refuses_is_one_line(monkeypatch, run):
    def init(**_):
        raise RuntimeError("permission\ndenied")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(UserError, match=r"best_of_n was not taken: permission denied$"):
        replay(WandbBackend(CONFIG, run[0]), run[0])


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
