"""W&B is a mirror of a run's files: what it holds, read back from a real offline run."""

import json

import pytest
import wandb
from tracked import FIGURES, JOBS, history, logged_keys

from suite.config.run import TrackingConfig
from suite.metrics.samples import SAMPLE_COLUMNS
from suite.tracking.keys import look_up
from suite.tracking.to_wandb import WandbBackend
from suite.tracking.tracker import replay


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
