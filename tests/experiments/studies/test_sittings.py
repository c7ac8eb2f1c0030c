"""A study over several sittings: what is stored is not made again, without a cache too; an unfinished folder says so."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest

from suite.config.planned import PlannedTraining
from suite.config.registry import register
from suite.config.studies import FrontierConfig, ReproduceConfig
from suite.metrics.updates import load_curves
from suite.runtime.errors import UserError
from suite.studies import workers
from suite.studies.pool_files import read_facts
from suite.studies.progress import progress
from suite.studies.registry import study
from suite.studies.reproduction import reproduce
from suite.studies.store import load_study

PLAN = [PlannedTraining("ppo", 0.5, 2, {"updates": 2}), PlannedTraining("bon_sft", None, [0, 3], {"num_prompts": 8})]
NAMES = ["ppo-kl_coef=0.5-seed0", "ppo-kl_coef=0.5-seed1", "bon_sft-seed0", "bon_sft-seed3"]


@pytest.fixture(scope="module")
def config(tmp_path_factory, models):
    """A frontier on the tiny models and a file of prompts."""
    register()
    folder = tmp_path_factory.mktemp("sittings")
    prompts = [f"This film about {a} and {b}" for a in ("love", "war", "cats", "Rome", "tea", "jazz") for b in "abcdefghij"]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    overrides = [
        f"task.prompts={folder}/prompts.jsonl", f"policy.path={models}/policy", f"reward.proxy.path={models}/proxy",
        f"reward.gold.path={models}/gold", f"results={folder}/runs", "sampling.max_new_tokens=5", "baseline.batch_size=8",
        "baseline.num_candidates=4", "baseline.checkpoint_every=1", "resamples=100",
    ]  # fmt: skip
    settings = FrontierConfig(num_prompts=12, num_candidates=8, n=4, trainings=PLAN, optimum_prompts=5, optimum_candidates=20)
    made = ReproduceConfig(
        studies=["frontier"], from_scratch=True, results=f"{folder}/results", output=f"{folder}/again",
        cache=f"{folder}/cache", overrides=overrides, frontier=settings,
    )  # fmt: skip
    made.check()
    return folder, made


@pytest.fixture(scope="module")
def sittings(config):
    """The study in three sittings, the cache removed between them, and what each trained."""
    folder, made = config
    trained, done = [], []
    usual = workers.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "train", lambda task: trained[-1].append((task.config.name, task.seed)) or usual(task))
        for sitting in ({"at_most": 1}, {"trainings": ["bon_sft-*"]}, {}):
            trained.append([])
            drawn = []
            reproduce(dataclasses.replace(made, **sitting), lambda *_: drawn.append(1) or [], lambda: None)  # noqa: B023
            done.append((progress(folder / "again" / "frontier"), len(drawn), (folder / "results" / "frontier").exists()))
            shutil.rmtree(folder / "cache")
    return trained, done


def test_each_sitting_does_its_part_and_no_part_twice(sittings):
    trained, done = sittings
    assert trained == [[("ppo", 0)], [("bon_sft", 0), ("bon_sft", 3)], [("ppo", 1)]]
    assert done == [((1, 4), 0, False), ((3, 4), 0, False), (None, 1, True)]


def test_nothing_is_made_of_a_finished_study_without_a_cache(config, sittings, monkeypatch):
    folder, made = config
    monkeypatch.setattr(workers, "train", lambda task: pytest.fail(f"{task.config.name} was trained again"))
    numbers = (folder / "results" / "frontier" / "metrics.csv").read_bytes()
    assert reproduce(made, lambda *_: [], lambda: None) == {"frontier": []}
    assert not (folder / "cache" / "pools").exists()
    assert (folder / "again" / "frontier" / "metrics.csv").read_bytes() == numbers


def test_sittings_come_to_what_one_sitting_makes(config, sittings):
    folder, made = config
    alone = folder / "alone"
    study("frontier").run(dataclasses.replace(made, cache=f"{folder}/fresh"), alone)
    one, several = (load_study(where, "frontier", FrontierConfig) for where in (alone, folder / "again" / "frontier"))
    assert [t.name for t in one.trained] == [t.name for t in several.trained] == NAMES
    for a, b in zip(
        (one.base, *(t.final for t in one.trained)), (several.base, *(t.final for t in several.trained)), strict=True
    ):
        np.testing.assert_array_equal(a.scores["gold"], b.scores["gold"])
    np.testing.assert_array_equal(one.optimum.scores["proxy"], several.optimum.scores["proxy"])
    assert [t.kl_coef for t in one.trained] == [0.5, 0.5, None, None]
    seconds = json.loads((folder / "again" / "frontier" / "manifest.json").read_text())["seconds"]
    assert set(seconds) == {"ppo training", "ppo pools", "bon_sft training", "bon_sft pools", "base pool", "optimum pool"}


def test_the_larger_pool_begins_with_the_base_policys_and_keeps_scores_alone(config, sittings):
    stored = load_study(config[0] / "again" / "frontier", "frontier", FrontierConfig)
    assert stored.optimum.scores["gold"].shape == (5, 20)
    np.testing.assert_array_equal(stored.optimum.scores["gold"][:, :8], stored.base.scores["gold"][:5])
    table = parquet.read_table(config[0] / "again" / "frontier" / "candidates" / "optimum.parquet")
    assert set(table.column_names) == {"prompt_id", "candidate_id", "length", "proxy", "gold"}


def test_logs_are_kept(config, sittings):
    folder = config[0] / "again" / "frontier"
    curves = load_curves(folder / "updates" / "ppo-kl_coef=0.5-seed1.parquet")
    assert curves["update"].tolist() == [1, 2]
    assert np.isfinite([curves[name] for name in ("score", "kl", "entropy", "explained_variance", "lr")]).all()
    assert np.isnan(load_curves(folder / "updates" / "bon_sft-seed3.parquet")["kl"]).all()
    facts = read_facts(folder / "candidates" / "ppo-kl_coef=0.5-seed1.parquet")
    assert {"git", "versions", "machine"} <= facts["made"].keys()


def test_what_was_made_otherwise_is_made_again(config, sittings, monkeypatch):
    folder, made = config
    copy = folder / "otherwise" / "frontier"
    shutil.copytree(folder / "again" / "frontier", copy)
    trained = []
    monkeypatch.setattr(workers, "train", lambda task: trained.append((task.config.kl_coef, task.seed)) or pytest.skip())
    plan = [PlannedTraining("ppo", 0.5, 2, {"updates": 2, "learning_rate": 1e-5}), PLAN[1]]
    other = dataclasses.replace(made, frontier=dataclasses.replace(made.frontier, trainings=plan), output=str(copy.parent))
    with pytest.raises(pytest.skip.Exception):
        study("frontier").run(other, copy)
    assert trained == [(0.5, 0)]
    assert progress(copy) == (2, 4)
    assert not (copy / "manifest.json").exists()


def test_an_unfinished_study_is_told_in_one_line(config, sittings, capsys):
    folder, made = config
    shutil.copytree(folder / "again" / "frontier", folder / "open" / "frontier")
    (folder / "open" / "frontier" / "manifest.json").unlink()
    (folder / "open" / "frontier" / "candidates" / "bon_sft-seed3.parquet").unlink()
    recipes = {name: read_facts(folder / "again" / "frontier" / "candidates" / f"{name}.parquet")["recipe"] for name in NAMES}
    (folder / "open" / "frontier" / "unfinished.json").write_text(json.dumps({"trainings": recipes}))
    told = f"3 of 4 trainings are in {folder}/open/frontier; go on with: python experiments/reproduce.py --from-scratch "
    plain = dataclasses.replace(made, from_scratch=False, results=f"{folder}/open")
    assert reproduce(plain, lambda *_: pytest.fail("drawn"), lambda: None) == {"frontier": []}
    assert f"frontier: unfinished, {told}studies=[frontier] output={folder}/open\n" == capsys.readouterr().out
    with pytest.raises(UserError, match="is unfinished, 3 of 4 trainings are there; go on with: python"):
        load_study(folder / "open" / "frontier", "frontier", FrontierConfig)


def test_names_that_are_none_of_the_studys(config):
    made = dataclasses.replace(config[1], trainings=["dpo-*"])
    with pytest.raises(UserError, match=r"trainings=\['dpo-\*'\] are none of frontier: there are ppo-kl_coef=0.5-seed0, "):
        study("frontier").run(made, config[0] / "none")
