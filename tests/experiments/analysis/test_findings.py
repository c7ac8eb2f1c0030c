"""Findings from pools whose answers are known by construction."""

import itertools
import json
import math

import numpy as np
import pytest

from bon.kl import best_of_n_kl_bound
from suite.analysis.findings import (
    TrainingPath,
    as_json,
    best_of_n_overoptimisation,
    compared,
    sentences,
    training_overoptimisation,
)
from suite.analysis.pay_back import as_json as as_json_of
from suite.analysis.pay_back import pay_back, told
from suite.metrics.cost import Costs
from suite.metrics.evaluation import Study

PROMPTS, CANDIDATES = 60, 16
RNG = np.random.default_rng(3)
PROXY = RNG.normal(size=(PROMPTS, CANDIDATES))
GOLD = 0.5 * PROXY + RNG.normal(size=(PROMPTS, CANDIDATES))


@pytest.fixture
def study(hand_pool):
    return Study(hand_pool(PROXY, GOLD), seed=0, resamples=300)


def shifted(hand_pool, proxy, gold, kl):
    """A tuned policy whose rewards are the base policy's plus a constant, at a known KL."""
    scores = {"kl_monte_carlo": np.full(PROXY.shape, kl), "kl_rao_blackwell": np.full(PROXY.shape, kl)}
    return hand_pool(PROXY + proxy, GOLD + gold, scores=scores)


COSTS = Costs(training=1e6, tuned=10.0, best_of_n=12.0 * np.arange(1, CANDIDATES + 1))


def test_paired_difference_is_over_all_subsets(hand_pool, study):
    tuned = shifted(hand_pool, 2.0, 1.0, 3.0)
    found = compared(study, tuned, TrainingPath.of(study.base, [tuned]), COSTS, 2)
    by_prompt = [
        np.mean([GOLD[p, max(pair, key=lambda c: PROXY[p, c])] for pair in itertools.combinations(range(CANDIDATES), 2)])
        - GOLD[p].mean()
        - 1
        for p in range(PROMPTS)
    ]
    assert found.paired.value == pytest.approx(np.mean(by_prompt))
    assert found.paired.high < 0
    assert found.paired.p_value < 0.05
    spread = (1.959964 + 0.841621) * np.std(by_prompt, ddof=1)
    assert found.detectable == pytest.approx(spread / math.sqrt(PROMPTS), rel=1e-5)
    assert found.prompts_needed == math.ceil((spread / 0.1) ** 2)


def test_a_policy_as_good_as_best_of_4_is_worth_4(hand_pool, study):
    best = [max(s, key=lambda c: PROXY[0, c]) for s in itertools.combinations(range(CANDIDATES), 4)]
    assert len(best) == 1820
    gain = np.mean(
        [
            GOLD[p, max(s, key=lambda c: PROXY[p, c])]
            for p in range(PROMPTS)
            for s in itertools.combinations(range(CANDIDATES), 4)
        ]
    )
    tuned = shifted(hand_pool, 1.0, gain - GOLD.mean(), 1.0)
    found = compared(study, tuned, TrainingPath.of(study.base, [tuned]), COSTS, 2)
    assert found.equivalent_n.value == pytest.approx(4)
    assert found.equivalent_n.low < 4 < found.equivalent_n.high
    assert found.break_even.requests.value == pytest.approx(1e6 / (4 * 12 - 10))
    assert "pays off after 26,316 requests" in "\n".join(sentences({"ppo": found}, {}, PROMPTS))


def test_no_better_than_base_is_worth_1_and_out_of_reach_is_said(hand_pool, study):
    same = shifted(hand_pool, 0.0, 0.0, 0.1)
    path = TrainingPath.of(study.base, [same])
    assert compared(study, same, path, COSTS, 2).equivalent_n.value == 1
    best = shifted(hand_pool, 9.0, 9.0, 3.0)
    found = compared(study, best, TrainingPath.of(study.base, [best]), COSTS, 2)
    assert math.isinf(found.equivalent_n.value)
    assert "PPO is worth more than best-of-16, the most that was drawn." in "\n".join(sentences({"ppo": found}, {}, PROMPTS))
    # JSON has no infinity of its own.
    assert (
        json.loads(json.dumps(as_json({"ppo": found}, {}), allow_nan=False))["compared"]["ppo"]["equivalent_n"]["value"]
        == "inf"
    )


def test_equal_kl_reads_both_frontiers_at_one_kl(hand_pool, study):
    # The tuned policy gains 1 per nat, along the way and at its end.
    stops = [shifted(hand_pool, kl, kl, kl) for kl in (0.6, 1.5)]
    found = compared(study, stops[-1], TrainingPath.of(study.base, stops), COSTS, 2)
    # 16 candidates reach 1.83 nats, the policy 1.5; between 0 and 0.6 it was not measured.
    assert sorted(found.equal_kl) == [1.0, 1.5]
    bounds = best_of_n_kl_bound(np.arange(1, CANDIDATES + 1))
    for kl, interval in found.equal_kl.items():
        after = int(np.argmax(bounds >= kl))
        n = [after, after + 1]  # counted from 1: the two n whose bounds enclose this KL
        means = [
            np.mean(
                [
                    GOLD[p, max(s, key=lambda c: PROXY[p, c])]
                    for p in range(PROMPTS)
                    for s in itertools.combinations(range(CANDIDATES), k)
                ]
            )
            for k in n
        ]
        # Both are read in the square root of KL.
        start, d, end = np.sqrt([bounds[after - 1], kl, bounds[after]])
        share = (d - start) / (end - start)
        own = 0.6 + 0.9 * (d - np.sqrt(0.6)) / (np.sqrt(1.5) - np.sqrt(0.6))
        expected = means[0] + share * (means[1] - means[0]) - (GOLD.mean() + own)
        assert interval.value == pytest.approx(expected)
        assert interval.low < expected < interval.high
        assert interval.band_low <= interval.low
        assert interval.high <= interval.band_high


def test_over_optimisation_is_warned_of(hand_pool):
    # Gold is what the proxy is, until the proxy is high: then it is the worse the higher.
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(200, 64))
    study = Study(hand_pool(proxy, np.where(proxy < 1, proxy, 1 - 3 * (proxy - 1))), seed=0, resamples=300)
    over = best_of_n_overoptimisation(study)
    assert over.decline.declines
    assert over.fit is not None
    assert 0 < over.fit.peak.value < math.sqrt(best_of_n_kl_bound(64))
    (warning,) = sentences({}, {"best_of_n": over}, 200)
    assert warning.startswith("WARNING: best-of-n over-optimises the proxy")
    honest = best_of_n_overoptimisation(Study(hand_pool(proxy, 2 * proxy), seed=0, resamples=300))
    assert not honest.decline.declines
    assert sentences({}, {"best_of_n": honest}, 200) == []


def test_fit_of_a_training_finds_the_curve_it_was_made_from(hand_pool, study):
    kls = (0.25, 1.0, 4.0, 9.0)
    stops = [shifted(hand_pool, kl, math.sqrt(kl) * (1.0 - 0.3 * math.log(math.sqrt(kl))), kl) for kl in kls]
    over = training_overoptimisation(study, TrainingPath.of(study.base, stops))
    assert over.fit is not None
    assert (over.fit.alpha.value, over.fit.beta.value) == (pytest.approx(1.0), pytest.approx(0.3))
    assert over.fit.peak.value == pytest.approx(math.exp(1 / 0.3 - 1))
    two = training_overoptimisation(study, TrainingPath.of(study.base, stops[:2]))
    assert two.fit is None  # as many points as parameters say nothing
    assert not two.decline.declines


def test_pay_back_for_one_training_with_the_search_and_by_budget():
    # Best-of-n gains log n; trainings are worth best-of 4, 4 and 16, half way best-of 2, 2 and 2.
    curve = np.log(np.arange(1, 65)) + np.zeros((30, 1))
    noise = 1e-3 * np.random.default_rng(0).normal(size=(3, 30))
    final = np.log([4.0, 4.0, 16.0])[:, None] + noise - noise.mean(1, keepdims=True)
    half = np.log(2.0) + noise - noise.mean(1, keepdims=True)
    costs = Costs(training=1e6, tuned=10.0, best_of_n=10.0 * np.arange(1, 65))
    found = pay_back(curve, {8: half, 16: final}, [0, 1, 2], costs, {8: 10.0, 16: 10.0}, search_flops=3e6)
    assert found.each_n == pytest.approx([4, 4, 16])
    assert found.each_requests == pytest.approx([1e6 / 30, 1e6 / 30, 1e6 / 150])
    mean = np.exp(np.log([4.0, 4.0, 16.0]).mean())
    assert found.one_n.value == pytest.approx(mean, rel=0.01)
    assert found.one_n.low == 1
    assert math.isinf(found.one_n.high)
    assert found.one.low_censored
    assert found.with_search.requests.value == pytest.approx(4e6 / (10 * mean - 10), rel=0.01)
    assert [(one.update, one.training_flops) for one in found.by_budget] == [(8, 5e5), (16, 1e6)]
    assert found.by_budget[0].requests.requests.value == pytest.approx(5e5 / 10, rel=0.01)
    first, second = told(found, "PPO", 64)
    assert "best-of-1 to more than 64" in first
    assert "the 3 trainings are worth best-of 4, 4, 16" in first
    assert "With the search for its settings (0 TFLOP)" in second
    assert json.loads(json.dumps(as_json_of(found), allow_nan=False))["one_training"]["equivalent_n"]["high"] == "inf"
    alone = pay_back(curve, {16: final}, [0, 1, 2], costs)
    assert alone.with_search is None
    assert alone.by_budget == []
    assert len(told(alone, "PPO", 64)) == 1
