"""Rewards that are Python functions: found by name, tried early, known by their source; the same comparison with them."""

import json
import math

import numpy as np
import pytest

from suite.comparison.compare import compare
from suite.comparison.setup import prepare
from suite.models.rewards import check_function, load_function
from suite.reports.terminal import plan, table, verdict
from suite.runtime.errors import UserError

EXAMPLE = "examples.near_15_words.score"
CODE = """
import math
from pathlib import Path

def length(texts): return [float(len(text)) for text in texts]
def one(texts): return 1.0
def fewer(texts): return [1.0] * (len(texts) - 1)
def nothing(texts): return [math.nan for _ in texts]
def words(texts): return ["good" for _ in texts]
def fails(texts): raise KeyError("score")
def late(texts): return [math.nan if len(texts) > 3 else 0.0 for _ in texts]
number = 3
class Kind: pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working directory with a module of the user's; its name."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / f"{name}_broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_the_example_is_highest_at_15_words():
    reward = load_function(EXAMPLE, "reward._target_")
    assert reward(["word " * n for n in (0, 14, 15, 16, 30)]) == [-15.0, -1.0, 0.0, -1.0, -15.0]
    assert sum(parameter.numel() for parameter in reward.model.parameters()) == 0


def test_another_version_has_another_digest(own, tmp_path):
    first = load_function(f"{own}.length", "reward._target_")
    assert load_function(f"{own}.length", "reward._target_").digest == first.digest
    assert load_function(f"{own}.one", "reward._target_").digest != first.digest
    (tmp_path / f"{own}.py").write_text(CODE + "# changed\n")
    assert load_function(f"{own}.length", "reward._target_").digest != first.digest


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("score", r"reward\._target_=score is not allowed: must be module\.function"),
        ("nowhere_at_all.score", r"no module named nowhere_at_all; modules are looked for from /"),
        ("{own}.missing", r"{own} has no missing$"),
        ("{own}.number", r"not a function"),
        ("{own}.Kind", r"not a function"),
        ("{own}_broken.score", r"importing {own}_broken raised ZeroDivisionError: division by zero$"),
    ],
)
def test_a_name_that_is_no_function(own, target, told):
    with pytest.raises(UserError, match=told.replace("{own}", own)) as caught:
        load_function(target.replace("{own}", own), "reward._target_")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("one", "the reward returned float, not one number for each of 3 texts"),
        ("fewer", "2 scores for 3 texts"),
        ("nothing", "the reward of text 0 is nan, not finite"),
        ("words", "the reward of text 0 is 'good', not a number"),
        ("fails", "the reward raised KeyError: 'score'"),
    ],
)
def test_what_a_reward_may_not_return(own, name, told):
    function = load_function(f"{own}.{name}", "reward._target_")
    with pytest.raises(UserError, match=told) as caught:
        check_function(function, ["a", "b", "c"], "reward._target_")
    assert str(caught.value).startswith(f"reward._target_={own}.{name}: ")
    check_function(load_function(f"{own}.length", "reward._target_"), ["a", "b", "c"], "reward._target_")


@pytest.fixture
def asked(configure, tmp_path):
    """asked(*overrides) -> the configuration of a small comparison on a file of 60 prompts."""
    rows = "".join(json.dumps({"prompt": f"The film number {i} is"}) + "\n" for i in range(60))
    (tmp_path / "own.jsonl").write_text(rows)
    small = ["num_prompts=6", "num_candidates=4", "n=2", "sampling.max_new_tokens=6", "tracking=none"]
    ppo = ["baseline.updates=2", "baseline.batch_size=4", "baseline.checkpoint_every=1", "baseline.num_candidates=2"]
    return lambda *overrides: configure(f"task.prompts={tmp_path}/own.jsonl", *small, *ppo, *overrides)


def test_a_comparison_on_ones_own_prompts_and_reward(asked, tmp_path):
    config = asked(f"reward._target_={EXAMPLE}")
    config.check()
    ready = prepare(config)
    assert (ready.config.task.name, ready.config.task.source, ready.config.reward.gold) == ("own", "file", None)
    assert ready.data["path"] == f"{tmp_path}/own.jsonl"
    read = set(ready.policy.tokenizer.batch_decode(ready.evaluation_prompts + ready.training_prompts))
    assert read <= {f"The film number {i} is" for i in range(60)}
    evaluated, trained = ({tuple(ids) for ids in ids} for ids in (ready.evaluation_prompts, ready.training_prompts))
    assert not evaluated & trained
    told = plan(ready, "off")
    assert f"{EXAMPLE}: proxy 0.0 M parameters; it selects, trains and evaluates" in told
    assert "6 of own" in told

    outcome = compare(ready)
    pool = outcome.pools["base"]
    expected = [[-abs(len(text.split()) - 15) for text in row] for row in pool.full_texts]
    assert np.array_equal(pool.scores["proxy"], expected)
    assert set(pool.scores) == {"proxy", "proxy_tokens"}
    assert {row.metric for row in outcome.rows} >= {"proxy", "win_rate", "kl", "training_seconds"}
    assert not any(row.metric == "gold" for row in outcome.rows)
    rate = next(row for row in outcome.rows if row.metric == "win_rate" and row.method == "base")
    assert rate.value == pytest.approx(0.5)
    assert outcome.overoptimisation == {}
    assert "gold" not in table(outcome, 2)
    said = verdict(outcome)
    assert said.startswith("Reward of best-of-2 minus PPO, paired over 6 prompts")
    assert said.endswith("There is no gold reward: the proxy judges what it selected and trained, so over-optimisation "
                         "cannot be seen.")  # fmt: skip
    assert all(math.isfinite(entry["objective/scores"]) for entry in outcome.training.log)


def test_a_function_beside_a_gold_classifier(asked, models):
    config = asked(f"reward.proxy._target_={EXAMPLE}", "baseline=none")
    outcome = compare(prepare(config))
    assert set(outcome.pools["base"].scores) == {"proxy", "gold", "proxy_tokens"}
    assert "best_of_n" in outcome.overoptimisation


def test_a_classifier_alone(asked, models):
    config = asked(f"reward.path={models}/proxy", "reward.label=POSITIVE", "baseline=none")
    config.check()
    assert set(prepare(config).judges) == {"proxy"}
    with pytest.raises(UserError, match=r"^reward\.label=GOOD: .*no label 'GOOD'; its labels are 'POSITIVE'$"):
        prepare(asked(f"reward.path={models}/proxy", "reward.label=GOOD"))


def test_a_reward_that_fails_later(own, asked):
    ready = prepare(asked(f"reward._target_={own}.late", "baseline=none"))
    with pytest.raises(UserError, match=rf"^reward={own}\.late: the reward of text 0 is nan, not finite"):
        compare(ready)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["num_prompts=50"], r"^num_prompts=50: the evaluation split has \d+ prompts \(60 different prompts in "),
        (["baseline.batch_size=50"], r"^baseline\.batch_size=50: the training split has \d+ prompts, this takes 50 \(60 "),
        (["sampling.max_new_tokens=250"], r"own\.jsonl:\d+: the prompt has \d+ tokens, which leaves no room"),
        (["task.column=query"], r"own\.jsonl:1: no column 'query'; there are 'prompt'"),
        (["reward._target_=nowhere.score"], r"^reward\._target_=nowhere\.score: no module named nowhere"),
        (["reward.proxy._target_=math.isnan"], r"^reward\.proxy\._target_=math\.isnan: the reward raised TypeError"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(asked, monkeypatch, overrides, told):
    monkeypatch.setattr("suite.comparison.setup.load_policy", None)
    with pytest.raises(UserError, match=told) as caught:
        prepare(asked(*overrides))
    assert "\n" not in str(caught.value)
