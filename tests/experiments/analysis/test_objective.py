"""Objectives and shares of the optimum from pools whose optimum is known: two rewards, in exact proportions."""

import dataclasses

import numpy as np
import pytest

from bon.estimators import best_of_n_mean
from bon.intervals import seeds_mean
from bon.kl import best_of_n_kl_bound
from bon.tradeoffs import optimum_exact
from suite.analysis.objective import (
    Yardstick,
    best_of_n_as_json,
    best_of_n_minus_optimum,
    best_of_n_rows,
    gained,
    optimum_rows,
    price_of,
)
from suite.analysis.objective_words import objective_sentences, objectives_as_json
from suite.metrics.evaluation import Study
from suite.metrics.optimum_series import best_of_n_at_best, best_of_n_points, optimum_curve, share_points
from suite.metrics.rows import select

PROMPTS, FEW, CANDIDATES = 12, 8, 1024
LEVEL = np.linspace(-0.5, 0.5, PROMPTS)[:, None]
#: Half of the candidates of every prompt are one better than the others; gold is half of that.
PROXY = LEVEL + np.tile([0.0, 1.0], CANDIDATES // 2)
GOLD = LEVEL + 0.5 * np.tile([0.0, 1.0], CANDIDATES // 2)
#: The odds of the better half triple: three quarters, 0.1308 nats, and log 3 is 1 / beta.
BETA, TRIPLED = 1 / np.log(3), 0.1308


@pytest.fixture
def study(hand_pool):
    return Study(hand_pool(PROXY[:, :8], GOLD[:, :8]), seed=0, resamples=200)


@pytest.fixture
def yardstick(study):
    found = Yardstick.of(study, [BETA, 0.5], {"proxy": PROXY[:FEW], "gold": GOLD[:FEW]})
    return found


def row(rows, **wanted):
    (found,) = select(rows, **wanted)
    return found


def test_the_optimum_of_two_rewards(yardstick):
    rows = list(optimum_rows(yardstick, None))
    exact = optimum_exact([0.5, 0.5], [0.0, 1.0], [BETA, 0.5])
    for k, beta in enumerate((BETA, 0.5)):
        setting = f"beta={beta:g}"
        assert row(rows, metric="objective", setting=setting).value == pytest.approx(exact.objective[k], abs=1e-3)
        assert row(rows, metric="kl", setting=setting, kl_kind="self_normalized").value == pytest.approx(exact.kl[k], abs=1e-3)
        # On all prompts, though the larger pool has the first eight, whose level is another.
        assert row(rows, metric="proxy", setting=setting).value == pytest.approx(exact.reward[k], abs=1e-3)
        assert row(rows, metric="gold", setting=setting).value == pytest.approx(exact.reward[k] / 2, abs=1e-3)
    assert row(rows, metric="effective_sample_size", setting=f"beta={BETA:g}").value == pytest.approx(0.8 * CANDIDATES)
    assert {found.method for found in rows} == {"optimum"}
    assert {found.step for found in rows} == {None}
    kl, proxy = optimum_curve(rows, "proxy")
    assert (np.diff(kl.value) > 0).all()
    assert (np.diff(proxy.value) > 0).all()


def test_the_spread_of_a_level_on_more_prompts_is_that_of_all_of_them(yardstick):
    found = row(list(optimum_rows(yardstick, None)), metric="proxy", setting=f"beta={BETA:g}")
    # Prompts gain alike: what is left is the spread of twelve levels, by Student's t with 11 degrees of freedom.
    reach = 2.200985 * LEVEL.std(ddof=1) / np.sqrt(PROMPTS)
    assert found.ci_high - found.value == pytest.approx(reach, rel=1e-3)


def test_the_objective_by_hand_and_the_share(study, yardstick):
    base = study.base.scores["proxy"].mean(1)
    better = (base + 0.2)[None]
    kl = np.full((1, PROMPTS), 0.1)
    found = gained(yardstick, better, kl, 0.5)
    assert found.objective.value == pytest.approx(0.2 - 0.5 * 0.1)
    assert found.share.share.value == pytest.approx(0.15 / optimum_exact([0.5, 0.5], [0.0, 1.0], 0.5).objective[0], rel=1e-3)
    assert found.own
    rows = list(found.rows("ppo", 3, 16, "kl_coef=0.5"))
    assert [(each.metric, each.seed, each.step, each.setting) for each in rows] == [
        (metric, 3, 16, "kl_coef=0.5") for metric in ("beta", "objective", "share_of_optimum")
    ]
    (point,) = share_points(rows, "ppo")
    assert (point.beta, point.bound, point.share.value) == (0.5, None, pytest.approx(found.share.share.value))


def test_the_optimum_has_a_share_of_1_at_its_own_price_which_is_found_where_there_is_none(study, yardstick):
    reward = (study.base.scores["proxy"].mean(1) + 0.25)[None]
    kl = np.full((1, PROMPTS), TRIPLED)
    assert gained(yardstick, reward, kl, BETA).share.share.value == pytest.approx(1.0, abs=2e-3)
    found = gained(yardstick, reward, kl, None)
    assert not found.own
    assert found.beta == pytest.approx(BETA, rel=0.25)
    assert found.share.share.value == pytest.approx(1.0, abs=0.01)
    worse = gained(yardstick, reward - 1, kl, BETA)
    assert worse.share.share.value < 0


def test_several_seeds_are_averaged_and_spread(study, yardstick):
    rng = np.random.default_rng(0)
    reward = study.base.scores["proxy"].mean(1) + rng.normal(0.3, 0.05, (3, 1)) + rng.normal(0, 0.02, (3, PROMPTS))
    kl = np.full((3, PROMPTS), 0.2)
    found = gained(yardstick, reward, kl, 0.5)
    expected = seeds_mean((reward - 0.5 * kl - study.base.scores["proxy"].mean(1))[..., None])
    np.testing.assert_allclose(found.objective, [part[0] for part in expected])
    each = [gained(yardstick, reward[s : s + 1], kl[s : s + 1], 0.5).share.share.value for s in range(3)]
    assert found.share.share.value == pytest.approx(np.mean(each))


def test_a_pool_that_is_too_small_tells_bounds(hand_pool):
    proxy = np.random.default_rng(1).normal(size=(PROMPTS, 16))
    study = Study(hand_pool(proxy), seed=0, resamples=200)
    yardstick = Yardstick.of(study, [0.05])
    rows = list(optimum_rows(yardstick, 0))
    at_least = row(rows, metric="objective_at_least", setting="beta=0.05").value
    assert select(rows, metric="kl", setting="beta=0.05") == []
    base = proxy.mean(1)
    better = gained(yardstick, (base + 1)[None], np.full((1, PROMPTS), 1.0), 0.05)
    assert better.metric == "share_of_optimum_at_most"
    assert better.share.share.value == pytest.approx(0.95 / at_least)
    assert gained(yardstick, base[None], np.full((1, PROMPTS), 1.0), 0.05).metric == "share_of_optimum_at_least"
    (point,) = [found for found in best_of_n_points(list(best_of_n_rows(yardstick, 0))) if found.beta == 0.05]
    assert point.bound == "upper"


@pytest.mark.parametrize(
    ("method", "kl_coef", "price"),
    [("ppo", 0.2, 0.2), ("rloo", 0.05, 0.05), ("grpo", 0.2, None), ("ppo", 0.0, None), ("bon_sft", None, None)],
)
def test_prices_in_units_of_the_reward(method, kl_coef, price):
    assert price_of(method, kl_coef) == price


def test_best_of_n_at_its_best(yardstick):
    found = best_of_n_as_json(yardstick)
    ns = np.arange(1, CANDIDATES + 1)
    # The best of n is one of the better half unless none is: 1 - 2^-n.
    gain = best_of_n_mean(PROXY[:1])[0] - PROXY[0].mean()
    np.testing.assert_allclose(gain[:4], 0.5 - 0.5 ** ns[:4], atol=1e-3)
    objective = gain - found["beta"] * best_of_n_kl_bound(ns)
    assert found["n"] == ns[objective.argmax()]
    assert found["objective"]["value"] == pytest.approx(objective.max())
    assert found["share_of_optimum"]["value"] == pytest.approx(objective.max() / found["optimum"])
    rows = list(best_of_n_rows(yardstick, None))
    best = best_of_n_at_best(rows)
    assert (best.beta, best.share.n) == (found["beta"], found["n"])
    assert best.share.value == max(point.share.value for point in best_of_n_points(rows) if point.bound is None)


def test_best_of_n_minus_the_optimum_is_paired_and_below_0_in_proxy(hand_pool):
    rng = np.random.default_rng(2)
    proxy = rng.normal(size=(40, 1)) + rng.normal(size=(40, 512))
    study = Study(hand_pool(proxy), seed=0, resamples=100)
    study = dataclasses.replace(study, base=dataclasses.replace(study.base, scores={"proxy": proxy}))
    points = best_of_n_minus_optimum(Yardstick.of(study, []))
    assert points[0]["kl"] == 0.5
    for point in points:
        # Of normal rewards the optimum gains sqrt(2 KL); the levels of prompts spread by 1 and cancel.
        n = np.arange(1, 513)
        best = np.interp(point["kl"], best_of_n_kl_bound(n), (best_of_n_mean(proxy) - proxy.mean(1, keepdims=True)).mean(0))
        assert point["value"] == pytest.approx(best - np.sqrt(2 * point["kl"]), abs=0.05)
        assert point["low"] < point["value"] < point["high"] < 0
        assert point["high"] - point["low"] < 0.1


def test_rewards_that_do_not_vary_have_no_optimum(hand_pool):
    assert Yardstick.of(Study(hand_pool(np.ones((4, 4))), 0, 100), [0.2]) is None
    assert Yardstick.of(Study(hand_pool(np.arange(4.0)[:, None]), 0, 100), [0.2]) is None


def test_sentences(study, yardstick):
    reward = (study.base.scores["proxy"].mean(1) + 0.2)[None]
    kl = np.full((1, PROMPTS), 0.1)
    found = {"ppo kl_coef=0.5": gained(yardstick, reward, kl, 0.5), "grpo": gained(yardstick, reward, kl, None)}
    objective, best = objective_sentences(yardstick, found)
    assert "(1,024 candidates of each of 8 prompts tell): PPO (kl_coef=0.5) +0.15 [+0.15, +0.15], " in objective
    assert f"GRPO at {found['grpo'].beta:g} a nat, where its share is greatest, +" in objective
    assert best.startswith("Best-of-n comes nearest to the optimum where a nat costs ")
    assert list(objectives_as_json(yardstick, found)) == ["best_of_n", *found]
