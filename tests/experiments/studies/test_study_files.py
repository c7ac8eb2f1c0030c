"""Files of a study, comparing two runs of one, and protocols with few prompts: by hand, by enumeration, by damage."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy import stats

from suite.config.planned import PlannedTraining, upgraded_plan
from suite.config.registry import register
from suite.config.run import PolicyConfig, RunConfig
from suite.config.studies import FrontierConfig, NotebookConfig, ReproduceConfig, WeakProxyConfig
from suite.metrics.evaluation import Study
from suite.metrics.rows import Row, write_rows
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY
from suite.studies import benchmark, store
from suite.studies.agreement import Number, agree, disagreements
from suite.studies.changed_weights import changed_rows
from suite.studies.pool_files import load_checkpoints, load_pool, save_checkpoints, save_pool
from suite.studies.protocols import detection, one_draw


def single(pool):
    """A pool as single precision keeps it."""
    return {name: values.astype(np.float32) for name, values in pool.scores.items()}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "results").rglob("config.yaml")), ids=lambda path: path.parent.name)
def test_configurations_of_results_name_no_folder_of_one_machine(path):
    def values(config):
        nested = config.values() if isinstance(config, dict) else config if isinstance(config, list) else None
        return [config] if nested is None else [value for part in nested for value in values(part)]

    given = values(OmegaConf.to_container(OmegaConf.load(path)))
    assert [value for value in given if isinstance(value, str) and value.startswith(("/", "~"))] == []


def test_policies_beside_a_training_come_back_with_it_and_have_rows_over_seeds(random_pools, tmp_path):
    base, tuned = random_pools["base"], random_pools["ppo"]
    trained = []
    for seed in (0, 1):
        few = tuned.first(2)
        scores = {name: values + 0.1 * seed for name, values in few.scores.items()}
        changed = {("ppo_line", "step=0.5"): dataclasses.replace(few, scores=scores), ("ppo_ema", ""): few}
        one = store.Trained("ppo", "kl_coef=0.2", seed, {4: tuned}, 5, 6, 7.0, changed=changed)
        store.save_trained(tmp_path, one)
        trained.append(store._training(tmp_path, one.name, 1, tuned))
        assert trained[-1].changed.keys() == changed.keys()
        again = trained[-1].changed["ppo_line", "step=0.5"]
        np.testing.assert_array_equal(again.scores["gold"], scores["gold"].astype(np.float32))
    rows = list(changed_rows(Study(base, 0, 50), trained))
    assert {(row.method, row.setting, row.step) for row in rows} == {
        ("ppo_line", "kl_coef=0.2 step=0.5", 4), ("ppo_ema", "kl_coef=0.2", 4)
    }  # fmt: skip
    gold = {row.seed: row.value for row in rows if (row.method, row.metric) == ("ppo_line", "gold")}
    assert gold.keys() == {0, 1, None}
    assert gold[1] - gold[0] == pytest.approx(0.1, abs=1e-6)
    assert gold[None] == pytest.approx((gold[0] + gold[1]) / 2)
    plain = store.Trained("ppo", "", 3, {4: tuned}, 5, 6, 7.0)
    store.save_trained(tmp_path, plain)
    assert store._training(tmp_path, plain.name, 1, tuned).changed == {}


def test_a_pool_comes_back(random_pools, tmp_path):
    pool = random_pools["ppo"]
    pool = dataclasses.replace(pool, lengths=np.random.default_rng(0).integers(1, 5, pool.lengths.shape).astype(np.int32))
    save_pool(pool, tmp_path / "a" / "pool.parquet", {"method": "ppo", "seed": 3})
    again, facts = load_pool(tmp_path / "a" / "pool.parquet")
    assert (facts["method"], facts["seed"]) == ("ppo", 3)
    inside = np.arange(4) < pool.lengths[..., None]
    np.testing.assert_array_equal(again.token_ids[inside], pool.token_ids[inside])
    np.testing.assert_array_equal(again.lengths, pool.lengths)
    for name, values in single(pool).items():
        np.testing.assert_array_equal(again.scores[name], values)
    np.testing.assert_array_equal(again.logprobs, pool.logprobs.astype(np.float32))
    assert again.prompt_token_ids == [list(ids) for ids in pool.prompt_token_ids]
    assert (again.metadata["seconds"], again.metadata["scoring_seconds"]) == (2.0, 1.0)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["pool.parquet"]


def test_columns_of_a_pool(random_pools, tmp_path):
    save_pool(random_pools["base"], tmp_path / "pool.parquet", {})
    table = parquet.read_table(tmp_path / "pool.parquet")
    assert set(table.column_names) == {
        "prompt_id", "candidate_id", "token_ids", "length", "logprob", "ref_logprob", "proxy", "gold", "kl_monte_carlo",
        "kl_rao_blackwell", "proxy_tokens",
    }  # fmt: skip
    assert table["prompt_id"].to_pylist() == [p for p in range(12) for _ in range(8)]
    assert table["candidate_id"].to_pylist() == list(range(8)) * 12
    assert table["gold"].to_pylist() == random_pools["base"].scores["gold"].astype(np.float32).ravel().tolist()
    assert set(table["kl_rao_blackwell"].to_pylist()) == {0.0}  # the base policy's
    assert str(table.schema.field("gold").type) == "float"
    assert str(table.schema.field("token_ids").type.value_type) == "int16"


def test_long_vocabularies_take_wider_tokens(hand_pool, tmp_path):
    tokens = np.full((2, 2, 4), 40_000, dtype=np.int32)
    save_pool(hand_pool(np.zeros((2, 2)), token_ids=tokens), tmp_path / "pool.parquet", {})
    np.testing.assert_array_equal(load_pool(tmp_path / "pool.parquet")[0].token_ids, tokens)


def test_checkpoints_come_back(random_pools, tmp_path):
    pools = {4: random_pools["ppo"], 8: random_pools["ppo"].take(np.tile([3, 2, 1, 0], (12, 1)))}
    save_checkpoints(pools, tmp_path / "pools.parquet", {})
    again = load_checkpoints(tmp_path / "pools.parquet", random_pools["ppo"].prompt_token_ids)
    assert list(again) == [4, 8]
    for step, pool in pools.items():
        for name, values in single(pool).items():
            np.testing.assert_array_equal(again[step].scores[name], values)
        np.testing.assert_array_equal(again[step].lengths, pool.lengths)
    table = parquet.read_table(tmp_path / "pools.parquet")
    assert "token_ids" not in table.column_names
    assert table["step"].to_pylist() == [4] * 48 + [8] * 48


@pytest.fixture
def folder(random_pools, tmp_path):
    """A frontier with one training of two seeds."""
    folder = tmp_path / "results" / "frontier"
    store.save_base(folder, random_pools["base"])
    trained = [
        store.Trained("ppo", "kl_coef=0.1", seed, {1: random_pools["ppo"].first(2), 2: random_pools["ppo"]}, 7, 8, 9.0, 10)
        for seed in (0, 1)
    ]
    for training in trained:
        store.save_trained(folder, training)
    facts = {"flops_per_token": {"policy": 10, "proxy": 3}}
    store.save_facts(
        folder,
        "frontier",
        FrontierConfig(n=4),
        RunConfig(resamples=100, policy=PolicyConfig(name="tiny")),
        {t.name: len(t.pools) for t in trained},
        facts,
    )
    return folder


def test_a_study_comes_back(folder):
    stored = store.load_study(folder, "frontier", FrontierConfig)
    assert [trained.name for trained in stored.trained] == ["ppo-kl_coef=0.1-seed0", "ppo-kl_coef=0.1-seed1"]
    assert stored.groups().keys() == {"ppo kl_coef=0.1"}
    assert (stored.settings, stored.resamples) == (FrontierConfig(n=4), 100)
    trained = stored.trained[1]
    assert (trained.tokens, trained.flops, trained.seconds, trained.reward_tokens) == (7, 8, 9.0, 10)
    assert stored.trained[1].last == 2
    # Prompts of one token, 4 tokens each: 1 + n (4 - 1) tokens drawn, and n texts of 5 read by the proxy.
    assert stored.request_flops(stored.trained[0].final)[0].tolist() == [10 * 4, 10 * 7 + 30, 10 * 10 + 45, 10 * 13 + 60]


def test_a_study_of_before_there_were_plans_is_still_read():
    path = REPOSITORY / "results" / "frontier"
    section = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))["study"]
    again = upgraded_plan(section)
    assert upgraded_plan(again) == again
    if "kl_coefs" in section:
        names = {f"{t['baseline']}-kl_coef={t['kl_coef']:g}-seed{s}" if "kl_coef" in t else f"{t['baseline']}-seed{s}"
                 for t in again["trainings"] for s in t["seeds"]}  # fmt: skip
        assert names == json.loads((path / "manifest.json").read_text())["trainings"].keys()


def _without(path):
    path.unlink()


def _rubbish(path):
    path.write_bytes(b"rubbish")


def _older(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))


def _lacking(path):
    parquet.write_table(parquet.read_table(path).drop_columns(["gold"]), path)


def _renamed(path):
    path.write_text(path.read_text().replace("trainings", "coefficients"))


@pytest.mark.parametrize(
    ("name", "harm", "message"),
    [
        ("manifest.json", _without, "study frontier: .* holds no results"),
        ("manifest.json", _rubbish, "manifest.json is damaged"),
        ("manifest.json", _older, "has schema 0, this version reads 1 and 2"),
        ("config.yaml", _without, "cannot be read"),
        ("config.yaml", _renamed, "cannot be read .*coefficients"),
        ("candidates/base.parquet", _without, "base.parquet is missing"),
        ("candidates/base.parquet", _rubbish, "base.parquet is not a pool of a study, or is damaged"),
        ("candidates/ppo-kl_coef=0.1-seed1.parquet", _lacking, "lacks the column gold"),
        ("checkpoints/ppo-kl_coef=0.1-seed1.parquet", _without, "checkpoints/ppo.* is missing"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_remedy(folder, name, harm, message):
    harm(folder / name)
    with pytest.raises(UserError, match=message) as raised:
        store.load_study(folder, "frontier", FrontierConfig)
    told = str(raised.value)
    assert "\n" not in told
    assert told.endswith(f"remove {folder} and run: python experiments/reproduce.py --from-scratch studies=[frontier]")


def test_a_study_that_is_not_there_says_how_it_is_made(tmp_path):
    command = "run: python experiments/reproduce.py --from-scratch studies=[notebook]"
    with pytest.raises(UserError, match=r"study notebook: .* holds no results") as raised:
        store.load_study(tmp_path / "notebook", "notebook", NotebookConfig)
    assert str(raised.value).endswith(f"; {command}")
    with pytest.raises(UserError, match=r"speed.csv cannot be read"):
        benchmark.rebuild(tmp_path / "benchmark")


def test_the_speed_table_is_that_of_its_csv(tmp_path):
    (tmp_path / "speed.csv").write_bytes((REPOSITORY / "results" / "benchmark" / "speed.csv").read_bytes())
    benchmark.rebuild(tmp_path)
    assert (tmp_path / "speed.md").read_text() == (REPOSITORY / "results" / "benchmark" / "speed.md").read_text()


def test_the_benchmark_is_composed_while_another_command_runs(tmp_path, monkeypatch):
    register()
    asked = []
    monkeypatch.setattr(benchmark, "measure", lambda config: asked.append(config) or [])
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        benchmark.run(ReproduceConfig(), tmp_path)
        assert "studies" in compose("reproduce")  # the outer command goes on as it was
    assert asked[0].check() is None
    benchmark.rebuild(tmp_path)
    assert (tmp_path / "speed.md").is_file()


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Number(1.0, 0.7, 1.3), Number(1.4, 1.0, 1.8), True),  # 0.4 apart, reach sqrt(0.3^2 + 0.4^2)
        (Number(1.0, 0.7, 1.3), Number(1.51, 1.11, 1.91), False),
        (Number(1.0, 0.9, 2.0), Number(1.4, 1.3, 1.5), True),  # the wide side is the one that counts
        (Number(1.0, 0.0, 1.1), Number(1.4, 1.3, 1.5), False),
        (Number(2.0, 2.0, 2.0), Number(2.0 + 1e-9, 2.0, 2.0), True),
        (Number(2.0, 2.0, 2.0), Number(2.001, 2.001, 2.001), False),
        (Number(math.inf, 5.0, math.inf), Number(math.inf, 6.0, math.inf), True),
        (Number(math.inf, 5.0, math.inf), Number(7.0, 6.0, math.inf), True),
        (Number(math.inf, 5.0, math.inf), Number(7.0, 6.0, 9.0), False),
    ],
)
def test_the_joint_interval(a, b, same):
    assert agree(a, b, 1.0) is same
    assert agree(b, a, 1.0) is same


def test_disagreements_are_named_and_those_of_one_training_are_not(tmp_path):
    def written(name, gold, of_one, findings, *more):
        folder = tmp_path / name
        folder.mkdir()
        over_all = Row("ppo", None, 8, 1, "gold", gold, gold - 0.1, gold + 0.1, setting="kl_coef=0.1")
        one_training = Row("ppo", 0, 8, 1, "gold", of_one, of_one, of_one, setting="kl_coef=0.1")
        write_rows([over_all, one_training, Row("ppo", None, 8, 1, "training_seconds", of_one), *more], folder / "metrics.csv")
        (folder / "findings.json").write_text(json.dumps(findings))
        return folder

    def interval(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    said = {"points": [{"kl": 2.0, **interval(1.0)}], "alone": {"seed": 0, **interval(1.0)}, "worth": interval(7.0)}
    other = {"points": [{"kl": 2.0, **interval(1.3)}], "alone": {"seed": 0, **interval(9.0)}, "worth": interval(7.3)}
    one = written("one", 1.0, 0.0, said)
    two = written("two", 1.15, 9.0, other, Row("base", None, None, 1, "kl", 0.0, 0.0, 0.0, "bound"))
    assert disagreements(one, one) == []
    # Three numbers are compared, so all are within sqrt(2) x 0.1 x 2.39 / 1.96 = 0.17 of each other together.
    assert disagreements(one, two) == [
        f"base n=1 kl bound: only in {two}",
        "findings points at 2: 1 [0.9, 1.1], committed 1.3 [1.2, 1.4]",
        "findings worth: 7 [6.9, 7.1], committed 7.3 [7.2, 7.4]",
    ]


def test_one_draw_is_the_best_of_n_different_candidates():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=(1, 5)), rng.normal(size=(1, 5))
    drawn = one_draw(scores, values, 3, np.zeros(40_000, dtype=int), rng)
    wanted = [values[0, max(subset, key=lambda c: scores[0, c])] for subset in itertools.combinations(range(5), 3)]
    for value in values[0]:
        # The share of 40,000 draws has a standard deviation of at most 0.0025.
        assert np.mean(drawn == value) == pytest.approx(np.mean(np.array(wanted) == value), abs=0.01)
    assert set(one_draw(scores, values, 5, np.zeros(9, dtype=int), rng)) == {values[0, scores[0].argmax()]}


def test_detection_of_a_normal_difference():
    # Differences of prompts are normal with mean 0.5 and deviation 1; the power of the t-test at 16 prompts is known.
    rng = np.random.default_rng(1)
    a = 0.5 + rng.normal(size=(4000, 1)) + np.zeros((4000, 2))
    found = detection((a, a, 1), (np.zeros((4000, 2)), np.zeros((4000, 2)), 1), 0.5, 16, 4000, 0)
    mean, spread = a[:, 0].mean(), a[:, 0].std()
    edge, away = stats.t.ppf(0.975, 15), mean / spread * 4
    assert found.right_sign == pytest.approx(stats.norm.cdf(away), abs=0.01)
    assert found.significant_right == pytest.approx(stats.nct.sf(edge, 15, away), abs=0.025)
    assert found.significant_wrong == pytest.approx(0.0, abs=0.002)
    none = detection((a - mean, a - mean, 1), (np.zeros((4000, 2)), np.zeros((4000, 2)), 1), 1.0, 16, 4000, 0)
    assert none.significant_right + none.significant_wrong == pytest.approx(0.05, abs=0.012)


def test_from_scratch_takes_the_embedded_models_unless_it_is_asked_for_more():
    kept = ["frontier", "weak_proxy", "notebook", "benchmark"]
    assert ReproduceConfig().chosen == [*kept, "smollm2"]
    assert ReproduceConfig(from_scratch=True).chosen == kept
    assert ReproduceConfig(from_scratch=True, studies=["smollm2"]).chosen == ["smollm2"]


def planned(*trainings):
    return ReproduceConfig(frontier=FrontierConfig(trainings=list(trainings)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ReproduceConfig(studies=["frontiers"]), "studies=frontiers is not a study: there are frontier, weak_proxy, notebook"),
        (ReproduceConfig(studies=["frontier", "frontier"]), r"studies=.* \(frontier is there twice\)"),
        (ReproduceConfig(studies=[]), "studies=.* a list of at least 1"),
        (planned(), "frontier.trainings=.* a list of at least 1"),
        (planned(PlannedTraining("ppo", 0.2), PlannedTraining("ppo", 0.20)), r"\(ppo kl_coef=0.2 is there twice\)"),
        (
            planned(PlannedTraining("ppo", 0.1), PlannedTraining("ppo", -0.1)),
            r"frontier.trainings\[1\].kl_coef=-0.1 .* null or at least 0",
        ),
        (planned(PlannedTraining("bon_sft", 0.1)), r"kl_coef=0.1 .* null where the baseline has no such key \(bon_sft\)"),
        (planned(PlannedTraining("none")), r"trainings\[0\].baseline=none .* one of ppo, rloo, grpo, bon_sft"),
        *(
            (planned(PlannedTraining(seeds=seeds)), "seeds=.* at least 2")
            for seeds in (1, [1], [1, 2, 2], [0, -1], "01", True)
        ),
        (planned(PlannedTraining(overrides={"learning_rat": 1})), r"overrides=\['learning_rat'\] .* keys of ppo: updates, "),
        (planned(PlannedTraining(overrides={"kl_coef": 1})), r"overrides=\['kl_coef'\] is not allowed"),
        (ReproduceConfig(frontier=FrontierConfig(optimum_prompts=1)), "frontier.optimum_prompts=1 .* 0, or from 2 to"),
        (ReproduceConfig(frontier=FrontierConfig(optimum_candidates=256)), "optimum_candidates=256 .* greater than"),
        (ReproduceConfig(from_scratch=True, at_most=-1), "at_most=-1 .* at least 0"),
        (ReproduceConfig(trainings=["ppo*"]), "from_scratch=False .* true with trainings or at_most"),
        (ReproduceConfig(weak_proxy=WeakProxyConfig(labels=1)), "weak_proxy.labels=1 .* at least 2"),
        (ReproduceConfig(notebook=NotebookConfig(protocol_prompts=512)), "notebook.protocol_prompts=512 .* less than"),
        (ReproduceConfig(results="pyproject.toml/results"), "results=pyproject.toml/results cannot be written"),
    ],
)
def test_bad_keys(config, message):
    with pytest.raises(UserError, match=message):
        config.check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["studies=[frontiers]"],
            "error: studies=frontiers is not a study: there are frontier, weak_proxy, notebook",
        ),
        (["--from-scratch", "frontier.trainings=[{seeds:1}]"], "error: frontier.trainings[0].seeds=1 is not allowed"),
        (["--from-scratch", "studies=[frontier]", "results=/tmp/none", "frontier.n=0"], "error: n=0 is not allowed"),
        (["--from-scratch", "frontier.seed=0"], "error: Key 'seed' not in 'FrontierConfig'"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message, tmp_path):
    script = REPOSITORY / "experiments" / "reproduce.py"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
