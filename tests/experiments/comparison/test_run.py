"""`python experiments/run.py` from end to end, in processes of its own; everything it leaves behind is read back."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from tracked import history, logged_keys, read_offline

from bon import Candidates
from suite.config.baselines import PPOConfig
from suite.figures.run_figures import draw_run
from suite.metrics.rows import read_rows, select
from suite.runtime.manifest import manifest
from suite.tracking.keys import look_up

PROMPTS, CANDIDATES, UPDATES = 16, 8, 2


class Finished:
    """A run that ended, and where it put things."""

    def __init__(self, process, folder):
        try:
            self.out, self.err = process.communicate(timeout=1200)
        finally:
            process.kill()
        self.code = process.returncode
        self.results = folder / "results"
        self.cache = folder / "cache"

    def cached(self):
        return {path: path.stat().st_mtime_ns for path in self.cache.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def runs(start, models, tmp_path_factory):
    """The first run (n=4), what it had cached, and a second one (-m n=2,3) on the same cache."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "first").mkdir()
    (folder / "second").mkdir()

    def arguments(name):
        return [
            "experiment=smoke",
            "tracking=wandb",
            f"policy.path={models}/policy",
            f"reward.proxy.path={models}/proxy",
            f"reward.gold.path={models}/gold",
            f"results={folder}/{name}/results",
            f"cache={folder}/cache",
            f"hydra.sweep.dir={folder}/{name}/sweep",
        ]

    first = Finished(start(*arguments("first"), cwd=folder / "first"), folder / "first")
    first.cache = folder / "cache"
    cached = first.cached()
    second = Finished(start("-m", "n=2,3", *arguments("second"), "tracking=none", cwd=folder / "second"), folder / "second")
    second.cache = folder / "cache"
    return first, cached, second


@pytest.fixture(scope="module")
def first(runs):
    return runs[0]


@pytest.fixture(scope="module")
def folder(first):
    assert first.code == 0, first.err
    (only,) = first.results.iterdir()
    return only


@pytest.fixture(scope="module")
def rows(folder):
    return read_rows(folder / "metrics.csv")


def test_it_ends_well_and_quietly(first):
    assert first.code == 0, first.err
    assert first.err == ""


def test_it_says_what_it_does(first, folder):
    for part in (
        "best-of-4 against PPO (2 updates of 8 responses",
        "tiny",
        "16 of imdb",
        str(folder),
        "offline",
        "wandb sync",
    ):
        assert part in first.out


def test_it_shows_a_table_a_verdict_samples_and_what_next(first, folder):
    for method in ("base policy", "best-of-4", "PPO", r"PPO \+ best-of-4"):
        assert re.search(rf"^{method}  +-?\d", first.out, re.M), method
    for column in ("proxy", "gold", "win rate", "KL to base", "distinct-2", "training"):
        assert column in first.out
    assert re.search(r"Gold reward of best-of-4 minus PPO, paired over 16 prompts: [+-]\d", first.out)
    assert "95% interval" in first.out
    assert "query" in first.out
    assert "python experiments/run.py n=8" in first.out
    for name in ("reward_vs_n", "reward_vs_kl", "reward_distribution", "cost"):
        assert f"{folder}/figures/{name}.png" in first.out
    assert f"{folder}/report.html" in first.out


def test_the_bound_is_called_one_in_the_table(first):
    bound = f"{np.log(4) - 3 / 4:.2f}"
    line = next(line for line in first.out.splitlines() if line.startswith("best-of-4  "))
    following = first.out.splitlines()[first.out.splitlines().index(line) + 1]
    assert re.search(rf" {bound} +\(bound\)| {bound} ", line)
    assert "(bound)" in line + following
    assert f"[{bound}, {bound}]" not in following  # a number without error has no interval


def test_files(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "wandb" not in path.parts}
    drawn = ("reward_vs_n", "reward_vs_kl", "reward_distribution", "cost", "training")
    figures = {f"figures/{name}.{kind}" for name in drawn for kind in ("png", "pdf", "svg")}
    plain = {"metrics.csv", "findings.json", "candidates.parquet", "candidates_ppo.parquet", "samples.md", "summary.txt",
             "config.yaml", "manifest.json", "report.html", "tracking.json", "updates.jsonl"}  # fmt: skip
    assert names == plain | figures
    for name in figures:
        assert (folder / name).read_bytes()[:4] in (b"\x89PNG", b"%PDF", b"<?xm")


@pytest.mark.parametrize(("name", "candidates"), [("candidates.parquet", CANDIDATES), ("candidates_ppo.parquet", 4)])
def test_candidates(folder, name, candidates):
    columns = set(parquet.read_schema(folder / name).names)
    needed = {
        "prompt_id",
        "candidate_id",
        "prompt",
        "response",
        "token_ids",
        "length",
        "logprob",
        "ref_logprob",
        "proxy",
        "gold",
    }
    assert needed <= columns
    pool = Candidates.load(folder / name)
    assert pool.token_ids.shape[:2] == (PROMPTS, candidates)
    assert pool.metadata["seed"] == 0
    assert pool.metadata["sampling"]["temperature"] == 1.0
    assert len(pool.metadata["policy"]) == 64
    assert all(2 <= len(ids) <= 8 for ids in pool.prompt_token_ids)
    assert pool.lengths.max() <= 24
    if candidates == CANDIDATES:
        assert (pool.ref_logprobs == pool.logprobs).all()
    else:
        assert {"kl_monte_carlo", "kl_rao_blackwell"} <= columns
        assert pool.scores["kl_monte_carlo"] == pytest.approx(pool.logprobs - pool.ref_logprobs, abs=1e-3)


def test_both_policies_answer_the_same_prompts(folder):
    one, two = (Candidates.load(folder / name) for name in ("candidates.parquet", "candidates_ppo.parquet"))
    assert one.prompt_token_ids == two.prompt_token_ids
    assert one.prompts == two.prompts


def test_metrics(folder, rows):
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    assert header == "method,seed,step,n,metric,value,ci_low,ci_high,kl_kind,setting"
    assert {row.method for row in rows} == {"base", "best_of_n", "ppo", "ppo+best_of_n", "optimum"}
    needed = {"proxy", "gold", "win_rate", "kl", "length", "perplexity", "distinct_1", "distinct_2", "distinct_3",
              "self_similarity", "tokens_per_request", "reward_tokens_per_request", "flops_per_request",
              "seconds_per_request", "training_tokens", "training_reward_tokens", "training_flops",
              "training_seconds"}  # fmt: skip
    optimum = {row for row in rows if row.method == "optimum" or row.setting.startswith("beta=")}
    against = {"beta", "objective", "share_of_optimum", "share_of_optimum_at_most", "share_of_optimum_at_least"}
    assert {row.metric for row in rows if row not in optimum} - against == needed
    assert {row.metric for row in optimum} - needed <= against | {"objective_at_least", "effective_sample_size"}
    rows = [row for row in rows if row not in optimum]
    assert {row.kl_kind for row in rows} == {None, "bound", "beirami", "levels", "monte_carlo", "rao_blackwell"}
    assert [row.n for row in rows if row.method in ("base", "best_of_n") and row.metric == "proxy"] == list(
        range(1, CANDIDATES + 1)
    )
    assert {row.step for row in rows if row.method == "ppo"} == {1, UPDATES}
    keys = [(row.method, row.step, row.n, row.metric, row.kl_kind) for row in rows]
    assert len(set(keys)) == len(keys)


def test_metrics_are_of_the_candidates_beside_them(folder, rows):
    base, tuned = (Candidates.load(folder / name) for name in ("candidates.parquet", "candidates_ppo.parquet"))
    for pool, method, step in ((base, "base", None), (tuned, "ppo", UPDATES)):
        for metric in ("proxy", "gold"):
            (row,) = select(rows, method=method, metric=metric, n=1, step=step)
            assert row.value == pytest.approx(pool.scores[metric].mean())
            assert row.ci_low <= row.value <= row.ci_high
    (best,) = select(rows, method="best_of_n", metric="proxy", n=CANDIDATES)
    assert best.value == pytest.approx(base.scores["proxy"].max(1).mean())
    (tokens,) = select(rows, metric="training_tokens")
    assert 0 < tokens.value <= UPDATES * 8 * 24


def test_the_proxys_curve_rises(rows):
    curve = [row.value for row in rows if row.method in ("base", "best_of_n") and row.metric == "proxy"]
    assert curve == sorted(curve)
    assert curve[-1] > curve[0]


def test_config(folder, models):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["n"] == 4
    assert config["policy"]["path"] == f"{models}/policy"
    assert config["baseline"]["updates"] == UPDATES
    assert config["baseline"]["kl_coef"] == PPOConfig().kl_coef
    assert "${" not in (folder / "config.yaml").read_text()


def test_manifest(folder, policy, judges):
    told = json.loads((folder / "manifest.json").read_text())
    assert re.fullmatch("[0-9a-f]{40}", told["git"]["sha"])
    assert isinstance(told["git"]["dirty"], bool)
    assert {"python", "torch", "transformers", "trl", "numpy", "wandb"} <= set(told["versions"])
    assert told["versions"]["trl"] == "1.12.0"
    assert told["device"] == "cpu" or told["device"].startswith("cuda")
    assert told["seed"] == 0
    of_policy = {"sha256": policy.digest, "parameters": policy.parameters, "revision": None}
    assert told["models"]["policy"] == {**of_policy, "source": policy.folder}
    for name, judge in judges.items():
        assert told["models"][name]["sha256"] == judge.digest
    assert len(told["data"]["sha256"]) == 64
    assert set(told["seconds"]) == {"base pool", "training", "ppo pools", "evaluation"}
    assert all(seconds >= 0 for seconds in told["seconds"].values())
    assert told["peak_memory_bytes"] > 1e8


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr("suite.runtime.manifest._PACKAGES", ("torch", "no-such-package"))
    versions = manifest()["versions"]
    assert versions["no-such-package"] is None
    assert versions["torch"] is not None


def test_figures_come_from_the_files_alone(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb", "figures"))
    draw_run(copy)
    drawn = {file.name: file.read_bytes() for file in (copy / "figures").iterdir()}
    assert drawn == {file.name: file.read_bytes() for file in (folder / "figures").iterdir()}


def test_the_summary_is_what_was_shown(first, folder):
    text = (folder / "summary.txt").read_text().strip()
    assert "PPO + best-of-4" in text
    assert text in first.out


def test_samples(folder):
    text = (folder / "samples.md").read_text()
    lines = text.splitlines()
    assert lines[0].startswith("# Samples of run-n4-seed0-")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + PROMPTS
    for column in ("query", "base response", "best-of-n response", "tuned response"):
        assert column in table[0]
    for line in table[2:]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert len(cells) == 7
        assert float(cells[4]) >= float(cells[2])  # best of 4 is no worse than the first


def test_offline_mirror(folder):
    runs = read_offline(folder)
    assert set(runs) == {"best_of_n", "ppo", "comparison", "figures"}
    assert {records["run"][0]["run_group"] for records in runs.values()} == {folder.name}
    keys = {job: logged_keys(records) for job, records in runs.items()}
    assert {key for own in keys.values() for key in own if look_up(key) is None} == set()
    assert {"bon/proxy", "bon/gold", "bon/kl_bound", "n"} <= keys["best_of_n"]
    assert {"ppo/objective/kl", "ppo/objective/scores", "ppo/reward/histogram", "eval/gold", "update"} <= keys["ppo"]
    assert {"samples", "frontier_table"} == keys["comparison"]
    assert "figures/cost" in keys["figures"]
    assert len([item for item in history(runs["best_of_n"]) if "n" in item]) == CANDIDATES
    policies = [artifact for artifact in runs["ppo"]["artifact"] if artifact["type"] == "policy"]
    assert {"config.json", "model.safetensors"} <= {item["path"] for item in policies[0]["manifest"]["contents"]}
    assert runs["ppo"]["run"][0]["config"]["update"]["baseline"]["updates"] == UPDATES


def test_another_n_trains_and_draws_nothing(runs):
    _, cached, second = runs
    assert second.code == 0, second.err
    assert any("pools" in path.parts for path in cached)
    assert any("ppo" in path.parts for path in cached)
    assert second.cached() == cached


def test_several_runs_of_one_command(runs):
    first, _, second = runs
    assert {re.match(r"run-n(\d)-seed0", path.name)[1] for path in second.results.iterdir()} == {"2", "3"}
    again = {path.name[4:6]: read_rows(path / "metrics.csv") for path in second.results.iterdir()}
    (folder,) = first.results.iterdir()
    for rows in again.values():
        for row in select(rows, metric="gold"):
            (same,) = select(read_rows(folder / "metrics.csv"), method=row.method, step=row.step, n=row.n, metric="gold")
            assert row == same
    assert not any(path.name == "wandb" for path in second.results.rglob("*"))


def test_nothing_is_left_where_the_command_was_started(runs):
    first, _, second = runs
    assert {path.name for path in first.results.parent.iterdir() if not path.name.startswith(".")} == {"results"}
    assert {path.name for path in second.results.parent.iterdir() if not path.name.startswith(".")} <= {"results", "sweep"}
