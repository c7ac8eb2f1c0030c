"""Every study from scratch on tiny models: what it stores, its numbers against those of `run.py`, again and compared."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from bon.estimators import best_of_n_mean
from bon.intervals import seeds_mean
from bon.tradeoffs.over_seeds import seeds_difference
from suite.baselines.interface import train
from suite.comparison.compare import checkpoint_pools, compare
from suite.comparison.setup import pool_maker, prepare, training_task
from suite.config.planned import PlannedTraining
from suite.config.registry import register
from suite.config.studies import FrontierConfig, NotebookConfig, ReproduceConfig, WeakProxyConfig
from suite.data import imdb
from suite.metrics.rows import read_rows, select
from suite.studies import store, weak_proxy
from suite.studies.agreement import numbers
from suite.studies.drawing import run_config
from suite.studies.reproduction import reproduce

NAMES = ["frontier", "weak_proxy", "notebook"]
PLAN = [
    PlannedTraining("ppo", 0.05, 2),
    PlannedTraining("ppo", 0.5, [0, 1], {"learning_rate": 1e-4}),
    PlannedTraining("bon_sft", None, 2),
]
SMALL = {"num_prompts": 20, "num_candidates": 8, "n": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory, models, some_reviews, fewer_splits):
    """A configuration of all studies on the tiny models and a sixth of the reviews."""
    register()
    folder = tmp_path_factory.mktemp("studies")
    overrides = [
        f"policy.path={models}/policy",
        f"reward.proxy.path={models}/proxy",
        f"reward.gold.path={models}/gold",
        f"results={folder}/runs",
        "sampling.max_new_tokens=6",
        "baseline.batch_size=8",
        "baseline.checkpoint_every=1",
        "baseline.num_candidates=4",
        "baseline.updates=2",
        "resamples=100",
    ]
    config = ReproduceConfig(
        studies=NAMES,
        from_scratch=True,
        results=f"{folder}/results",
        output=f"{folder}/again",
        cache=f"{folder}/cache",
        overrides=overrides,
        frontier=FrontierConfig(**SMALL, trainings=PLAN, optimum_prompts=6, optimum_candidates=12),
        weak_proxy=WeakProxyConfig(**SMALL, labels=8, steps=2, updates=2, seeds=[0, 1]),
        notebook=NotebookConfig(**SMALL, protocol_prompts=4, kl_coefs=[0.5, 0.05], repeats=100),
    )
    config.check()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imdb, "read_wheel", lambda: some_reviews)
        patch.setattr(imdb, "split_reviews", lambda raw: fewer_splits if raw is some_reviews else {})
        yield folder, config


@pytest.fixture(scope="module")
def first(world):
    """The studies, made for the first time: (their folder, the configuration, what was drawn, what disagreed)."""
    folder, config = world
    (folder / "results" / "frontier").mkdir(parents=True)
    (folder / "results" / "frontier" / "README.md").write_text("by hand")
    drawn = []
    found = reproduce(config, lambda study, where: drawn.append((study, where)) or [], lambda: drawn.append("readme"))
    return folder / "results", config, drawn, found


def test_a_first_time_puts_every_study_into_results(first):
    results, _, drawn, found = first
    assert found == {name: [] for name in NAMES}
    assert drawn == [*((name, results / name) for name in NAMES), "readme"]
    for name in NAMES:
        files = {str(path.relative_to(results / name)) for path in (results / name).rglob("*") if path.is_file()}
        assert {"config.yaml", "manifest.json", "metrics.csv", "findings.json", "candidates/base.parquet"} <= files
    assert {path.stem for path in (results / "frontier" / "candidates").iterdir()} == {
        "base", "optimum", "ppo-kl_coef=0.05-seed0", "ppo-kl_coef=0.05-seed1", "ppo-kl_coef=0.5-seed0",
        "ppo-kl_coef=0.5-seed1", "bon_sft-seed0", "bon_sft-seed1",
    }  # fmt: skip
    assert list((results / "frontier").parent.glob(".*")) == []
    assert (results / "frontier" / "README.md").read_text() == "by hand"


@pytest.fixture(scope="module")
def frontier(first):
    folder = first[0] / "frontier"
    return read_rows(folder / "metrics.csv"), store.load_study(folder, "frontier", FrontierConfig)


def test_the_rows_of_a_training_are_those_of_run_py(first, frontier):
    config, rows = first[1], frontier[0]
    cached = {path for path in (first[0].parent / "cache").rglob("*") if path.is_file()}
    run = run_config(*config.overrides, f"cache={config.cache}", "num_prompts=20", "num_candidates=8", "n=4",
                     "baseline=ppo", "baseline.kl_coef=0.5", "baseline.learning_rate=1e-4", "seed=0")  # fmt: skip
    outcome = compare(prepare(run))
    assert {path for path in (first[0].parent / "cache").rglob("*") if path.is_file()} == cached  # the same keys
    assert outcome.training.reused
    assert len(outcome.rows) > 150
    yardstick = {"objective", "beta", "share_of_optimum", "share_of_optimum_at_most", "share_of_optimum_at_least"}
    for row in outcome.rows:
        if row.method == "optimum" or row.metric in yardstick:
            continue  # a study reads the optimum off a pool of its own
        tuned = row.step is not None
        (same,) = select(
            rows, method=row.method, seed=0 if tuned else None, step=row.step, n=row.n, metric=row.metric,
            kl_kind=row.kl_kind, setting="kl_coef=0.5" if tuned else "",
        )  # fmt: skip
        # Stored in single precision.
        assert same.value == pytest.approx(row.value, rel=1e-5, abs=1e-5)
        assert (same.ci_low is None) == (row.ci_low is None)
        if row.ci_low is not None:
            assert same.ci_low == pytest.approx(row.ci_low, rel=1e-4, abs=1e-4)
            assert same.ci_high == pytest.approx(row.ci_high, rel=1e-4, abs=1e-4)


def test_another_seed_is_that_seeds_training_with_that_seeds_draws(first, frontier):
    config, stored = first[1], frontier[1]
    run = run_config(*config.overrides, f"cache={config.cache}", "num_prompts=20", "num_candidates=8", "n=4",
                     "baseline=bon_sft", "seed=1")  # fmt: skip
    comparison = prepare(run)
    training = train(training_task(comparison, first[0].parent / "cache"))
    pools = {step: pool for step, _, pool in checkpoint_pools(comparison, pool_maker(comparison), training)}
    (kept,) = [trained for trained in stored.trained if trained.name == "bon_sft-seed1"]
    assert (kept.tokens, kept.flops) == (training.tokens, training.flops)
    assert list(kept.pools) == list(pools)
    for step, pool in pools.items():
        for name in ("proxy", "gold", "kl_rao_blackwell"):
            np.testing.assert_allclose(kept.pools[step].scores[name], pool.scores[name], rtol=1e-6)
    inside = np.arange(pool.token_ids.shape[2]) < pool.lengths[..., None]
    assert (kept.final.token_ids[inside[..., : kept.final.token_ids.shape[2]]] == pool.token_ids[inside]).all()


def test_rows_over_seeds_are_seeds_means(frontier):
    rows, stored = frontier
    for label, group in stored.groups().items():
        method, _, setting = label.partition(" ")
        last = group[0].last
        for metric, values in (
            ("gold", [t.final.scores["gold"] for t in group]),
            ("length", [t.final.lengths for t in group]),
        ):
            expected = seeds_mean(np.stack([value.mean(1) for value in values]))
            (row,) = select(rows, method=method, setting=setting, seed=None, step=last, n=1, metric=metric)
            assert (row.value, row.ci_low, row.ci_high) == pytest.approx(tuple(map(float, expected)))
        (kl,) = select(rows, method=method, setting=setting, seed=None, step=1, n=1, metric="kl", kl_kind="rao_blackwell")
        assert kl.value == pytest.approx(np.mean([t.pools[1].scores["kl_rao_blackwell"] for t in group]))
        each = [select(rows, method=method, setting=setting, seed=s, step=last, n=1, metric="perplexity")[0] for s in (0, 1)]
        (perplexity,) = select(rows, method=method, setting=setting, seed=None, step=last, n=1, metric="perplexity")
        assert np.log(perplexity.value) == pytest.approx(np.mean([np.log(row.value) for row in each]))
        assert [row.n for row in select(rows, method=f"{method}+best_of_n", setting=setting, seed=None, metric="gold")] == [
            2,
            3,
            4,
        ]
        for metric in ("distinct_2", "training_flops", "seconds_per_request"):
            each = [select(rows, method=method, setting=setting, seed=s, n=1, metric=metric)[0].value for s in (0, 1)]
            (row,) = select(rows, method=method, setting=setting, seed=None, n=1, metric=metric)
            assert row.value == pytest.approx(np.mean(each))
            assert (row.ci_low is None) == (metric != "distinct_2")


def test_findings_of_the_frontier(first, frontier):
    stored = frontier[1]
    found = json.loads((first[0] / "frontier" / "findings.json").read_text())
    assert list(found["compared"]) == ["ppo kl_coef=0.05", "ppo kl_coef=0.5", "bon_sft"]
    assert list(found["overoptimisation"]) == ["best_of_n", *found["compared"]]
    assert list(found["equal_kl"]) == ["ppo"]
    group = stored.groups()["ppo kl_coef=0.5"]
    best = best_of_n_mean(stored.base.scores["proxy"], stored.base.scores["gold"])[:, 3]
    expected = seeds_difference(best, np.stack([t.final.scores["gold"].mean(1) for t in group]))
    told = found["compared"]["ppo kl_coef=0.5"]
    assert told["best_of_n_minus_method"] == pytest.approx(expected._asdict())
    assert told["seeds"] == [0, 1]
    assert "detectable_difference" in told
    assert told["detectable_difference"] is None
    assert any("best-of-4 minus PPO (kl_coef=0.5), paired over 20 prompts" in line for line in found["sentences"])
    assert any("pay" in line and "PPO (kl_coef=0.05)" in line for line in found["sentences"])


def test_the_weak_proxy_is_another_judge_and_gold_the_same(first, frontier):
    weak = store.load_study(first[0] / "weak_proxy", "weak_proxy", WeakProxyConfig).base
    usual = frontier[1].base
    np.testing.assert_array_equal(weak.token_ids, usual.token_ids)
    np.testing.assert_array_equal(weak.scores["gold"], usual.scores["gold"])
    assert abs(weak.scores["proxy"] - usual.scores["proxy"]).min() > 0
    found = json.loads((first[0] / "weak_proxy" / "findings.json").read_text())
    assert list(found["overoptimisation"]) == ["best_of_n", "ppo"]
    assert found["equal_kl"] == {}


def test_the_place_of_the_weak_proxy_is_as_relative_as_the_cache(first, world, monkeypatch):
    folder, config = world
    monkeypatch.setattr("suite.runtime.paths.REPOSITORY", folder)
    made = weak_proxy.weak_proxy(run_config(*config.overrides, "cache=cache"), config.weak_proxy)
    assert (made.parts[:2], made.name) == (("cache", "weak_proxy"), "proxy")
    assert (folder / made / "model.safetensors").is_file()


def test_the_notebooks_protocol(first, frontier):
    folder = first[0] / "notebook"
    rows, stored = read_rows(folder / "metrics.csv"), store.load_study(folder, "notebook", NotebookConfig)
    proxy, gold = stored.base.scores["proxy"], stored.base.scores["gold"]
    best, loudest = proxy[:4, :4].argmax(1), abs(proxy[:4, :4]).argmax(1)

    def value(setting, method, metric):
        (row,) = select(rows, setting=setting, method=method, metric=metric)
        return row.value

    assert value("num_prompts=4", "best_of_n", "gold") == pytest.approx(gold[np.arange(4), best].mean())
    assert value("num_prompts=4", "base", "proxy") == pytest.approx(proxy[:4, 0].mean())
    wrong = "num_prompts=4 label=winning"
    assert value(wrong, "best_of_n", "gold") == pytest.approx(gold[np.arange(4), loudest].mean())
    assert value(wrong, "best_of_n", "proxy") == pytest.approx(abs(proxy[np.arange(4), loudest]).mean())
    assert value("num_prompts=20", "ppo", "gold") == pytest.approx(stored.trained[0].final.scores["gold"].mean())
    assert stored.trained[0].setting == "kl_coef=0.5"
    found = json.loads((folder / "findings.json").read_text())
    assert [each["comparison"] for each in found["detection"]] == [
        "best_of_n - base", "best_of_n - ppo kl_coef=0.5", "best_of_n - ppo kl_coef=0.05",
    ]  # fmt: skip
    assert [each["num_prompts"] for each in found["detection"][0]["by_prompts"]] == [4, 8, 16, 20]
    assert found["wrong_label"]["negative_share"]["base"] == pytest.approx(float((proxy < 0).mean()))


def test_again_nothing_is_trained_the_files_are_the_same_and_all_agrees(first):
    results, config, _, _ = first
    numbers = {path: path.read_bytes() for path in results.rglob("*") if path.suffix in (".csv", ".json")}
    cached = {path: path.stat().st_mtime_ns for path in (results.parent / "cache").rglob("*") if path.is_file()}
    assert reproduce(config, lambda *_: [], lambda: None) == {name: [] for name in NAMES}
    assert {path: path.stat().st_mtime_ns for path in (results.parent / "cache").rglob("*") if path.is_file()} == cached
    assert {path: path.read_bytes() for path in numbers} == numbers
    for path in numbers:
        if path.name in ("metrics.csv", "findings.json"):
            again = results.parent / "again" / path.relative_to(results)
            assert again.read_bytes() == numbers[path]


def test_what_differs_is_named(first, tmp_path, world):
    folder, config = world
    copy = tmp_path / "results"
    shutil.copytree(folder / "results", copy)
    stored = store.load_study(copy / "weak_proxy", "weak_proxy", WeakProxyConfig)
    scores = {**stored.base.scores, "gold": stored.base.scores["gold"] + 50}
    store.save_base(copy / "weak_proxy", dataclasses.replace(stored.base, scores=scores))
    here = dataclasses.replace(config, studies=["weak_proxy"], results=str(copy))
    lines = reproduce(here, lambda *_: [], lambda: None)["weak_proxy"]
    assert any(line.startswith("base n=1 gold: ") for line in lines)
    assert any(line.startswith("findings compared ppo best_of_n_minus_method: ") for line in lines)
    assert not any("proxy:" in line or "length" in line for line in lines)


def test_rebuilding_needs_no_models(first, monkeypatch):
    results, config, _, _ = first
    monkeypatch.setattr("suite.comparison.setup.prepare", lambda *_: pytest.fail("a model was asked for"))
    before = (results / "frontier" / "metrics.csv").read_bytes()
    (results / "frontier" / "metrics.csv").unlink()
    (results / "frontier" / "findings.json").unlink()
    only = dataclasses.replace(config, from_scratch=False, studies=["frontier"])
    assert reproduce(only, lambda *_: [], lambda: None) == {"frontier": []}
    assert (results / "frontier" / "metrics.csv").read_bytes() == before


def test_differences_of_one_training_are_not_held_against_another_machine(first):
    found = json.loads((first[0] / "notebook" / "findings.json").read_text())
    trained = found["detection"][1]
    assert trained["seed"] == 0
    names = numbers(first[0] / "notebook")
    assert "findings detection best_of_n - base truth" in names
    assert not any("kl_coef" in name for name in names)
