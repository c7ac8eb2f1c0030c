"""A study's trainings in processes of their own: the same as in one process, and the same figures' data come of them."""

import dataclasses
import json

import numpy as np
import pytest

from suite.config.registry import register
from suite.config.studies import ReproduceConfig, SmolLM2Config
from suite.metrics.rows import read_rows, select
from suite.runtime.errors import UserError
from suite.studies.registry import study
from suite.studies.store import load_study


@pytest.fixture(scope="module")
def config(tmp_path_factory, models):
    """The study of SmolLM2 on the tiny models and a file of prompts, which workers read as this process does."""
    register()
    folder = tmp_path_factory.mktemp("workers")
    prompts = [f"This film about {a} and {b}" for a in ("love", "war", "cats", "Rome", "tea", "jazz") for b in "abcdefghij"]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    overrides = [
        f"task.prompts={folder}/prompts.jsonl", f"policy.path={models}/policy", f"reward.proxy.path={models}/proxy",
        f"reward.gold.path={models}/gold", f"results={folder}/runs", "sampling.max_new_tokens=6", "baseline.batch_size=8",
        "baseline.num_candidates=4", "resamples=100",
    ]  # fmt: skip
    settings = SmolLM2Config(
        num_prompts=12, num_candidates=8, n=4, kl_coefs=[0.05, 0.5], seeds=[0, 1], updates=3, checkpoint_every=1,
        policy="tiny", reward="tiny",
    )  # fmt: skip
    made = ReproduceConfig(studies=["smollm2"], cache=f"{folder}/cache", overrides=overrides, smollm2=settings)
    made.check()
    return folder, made


def test_two_workers_do_what_one_process_does(config):
    folder, alone = config
    together = dataclasses.replace(alone, cache=f"{folder}/cache-of-two", workers=2)
    stored = []
    for name, made in (("alone", alone), ("together", together)):
        (folder / name).mkdir()
        study("smollm2").run(made, folder / name)
        study("smollm2").rebuild(folder / name)
        stored.append(load_study(folder / name, "smollm2", SmolLM2Config))
    one, two = stored
    assert [t.name for t in two.trained] == [f"ppo-kl_coef={k}-seed{s}" for k in (0.05, 0.5) for s in (0, 1)]
    np.testing.assert_array_equal(two.base.scores["gold"], one.base.scores["gold"])
    for a, b in zip(one.trained, two.trained, strict=True):
        assert (a.name, a.tokens, a.flops, a.reward_tokens) == (b.name, b.tokens, b.flops, b.reward_tokens)
        assert list(a.pools) == list(b.pools) == [1, 3]  # every second checkpoint, from the last back
        for step in a.pools:
            for score in ("proxy", "gold", "kl_rao_blackwell"):
                np.testing.assert_array_equal(a.pools[step].scores[score], b.pools[step].scores[score])
    facts = json.loads((folder / "together" / "manifest.json").read_text())
    assert facts["workers"] == 2
    assert facts["seconds"]["ppo training"] >= sum(t.seconds for t in two.trained)  # of both workers, imports included
    assert not list((folder / "cache").rglob("optimizer.pt"))
    (gold,) = select(read_rows(folder / "together" / "metrics.csv"), method="ppo", setting="kl_coef=0.5", seed=None, step=3,
                     n=1, metric="gold")  # fmt: skip
    assert gold.value == pytest.approx(np.mean([t.final.scores["gold"] for t in two.trained[2:]]))
    found = json.loads((folder / "together" / "findings.json").read_text())
    assert found["compared"]["ppo kl_coef=0.05"]["seeds"] == [0, 1]


def test_what_is_wrong_is_told_before_there_are_workers(config):
    folder, made = config
    wrong = dataclasses.replace(made, workers=2, overrides=[*made.overrides, "baseline.batch_size=9"], cache=f"{folder}/none")
    with pytest.raises(UserError, match=r"baseline.num_mini_batches=2 is not allowed"):
        study("smollm2").run(wrong, folder)
    with pytest.raises(UserError, match=r"workers=0 is not allowed: must be at least 1"):
        dataclasses.replace(made, workers=0).check()
