"""Differences at equal cost, from pools and costs whose answers are known by hand."""

import itertools
import json

import numpy as np
import pytest

from suite.analysis.equal_cost import at_equal_flops, at_equal_flops_over_seeds, told
from suite.analysis.findings import Findings, TrainingPath, as_json, compared, sentences
from suite.metrics.cost import Costs
from suite.metrics.evaluation import Study

PROMPTS, CANDIDATES = 40, 8
RNG = np.random.default_rng(4)
PROXY = RNG.normal(size=(PROMPTS, CANDIDATES))
GOLD = 0.5 * PROXY + RNG.normal(size=(PROMPTS, CANDIDATES))
#: A request by best-of-n costs 10 n here, for every prompt.
FLOPS = np.tile(10.0 * np.arange(1, CANDIDATES + 1), (PROMPTS, 1))


@pytest.fixture
def study(hand_pool):
    return Study(hand_pool(PROXY, GOLD), seed=0, resamples=300)


def best_of(n):
    """Mean gold reward of the proxy's best, over prompts and all n-subsets."""
    subsets = list(itertools.combinations(range(CANDIDATES), n))
    return np.mean([GOLD[p, max(subset, key=lambda c: PROXY[p, c])] for p in range(PROMPTS) for subset in subsets])


def test_a_shifted_copy_of_equal_cost_differs_by_the_shift(hand_pool, study):
    found = at_equal_flops(study, hand_pool(PROXY, GOLD + 0.75), FLOPS, FLOPS, 3)
    assert [at.k for at in found] == [1, 2, 3, 4, 8]  # powers of two, and the run's own n
    for at in found:
        assert (at.n, at.flops) == (pytest.approx(at.k), pytest.approx(10 * at.k))
        assert list(at.difference) == pytest.approx([-0.75] * 3)


def test_a_dearer_policy_is_compared_with_more_candidates(hand_pool, study):
    # Two and a half times the cost: best-of-2.5 k, half way between two n.
    found = at_equal_flops(study, hand_pool(PROXY[:, :2], GOLD[:, :2] + 1), FLOPS, 2.5 * FLOPS[:, :2], 2)
    assert [(at.k, at.n) for at in found] == [(1, pytest.approx(2.5)), (2, pytest.approx(5))]
    assert found[0].difference.value == pytest.approx((best_of(2) + best_of(3)) / 2 - GOLD[:, :2].mean() - 1)
    chosen = np.mean([GOLD[p, PROXY[p, :2].argmax()] for p in range(PROMPTS)])
    assert found[1].difference.value == pytest.approx(best_of(5) - chosen - 1)
    for at in found:
        assert at.difference.low < at.difference.value < at.difference.high


def test_costs_of_prompts_are_averaged_first(hand_pool, study):
    uneven = FLOPS * np.linspace(0.5, 1.5, PROMPTS)[:, None]
    (found, *_) = at_equal_flops(study, hand_pool(PROXY, GOLD), FLOPS, uneven, 1)
    assert (found.n, found.flops) == (pytest.approx(1), pytest.approx(10))
    assert found.difference.value == pytest.approx(0, abs=1e-12)


def test_one_response_is_the_cheapest_request(hand_pool, study):
    (found,) = at_equal_flops(study, hand_pool(PROXY[:, :1], GOLD[:, :1]), FLOPS, 0.9 * FLOPS[:, :1], 1)
    assert (found.n, found.flops) == (1, pytest.approx(9))
    assert found.difference.value == pytest.approx(GOLD.mean() - GOLD[:, 0].mean())


def test_what_costs_more_than_all_that_was_drawn_is_left_out(hand_pool, study):
    assert [at.k for at in at_equal_flops(study, hand_pool(PROXY, GOLD), FLOPS, 3 * FLOPS, 1)] == [1, 2]
    seeds = [hand_pool(PROXY, GOLD)] * 2
    assert [at.k for at in at_equal_flops_over_seeds(study, seeds, FLOPS, [3 * FLOPS] * 2, 1)] == [1, 2]


def test_over_seeds(hand_pool, study):
    tuned = [hand_pool(PROXY, GOLD + shift) for shift in (0.5, 1.0)]
    found = at_equal_flops_over_seeds(study, tuned, FLOPS, [2 * FLOPS, 3 * FLOPS], 2)
    assert [(at.k, at.n, at.flops) for at in found] == [(1, 2.5, 25), (2, 5, 50)]
    assert found[0].difference.value == pytest.approx((best_of(2) + best_of(3)) / 2 - GOLD.mean() - 0.75)
    assert found[1].difference.value == pytest.approx(best_of(5) - best_of(2) - 0.75)
    assert found[0].difference.low < found[0].difference.value - 0.1  # the seeds scatter


def test_without_gold_the_proxy_is_compared(hand_pool):
    base = hand_pool(PROXY, GOLD)
    del base.scores["gold"]
    (first, *_) = at_equal_flops(Study(base, 0, 100), hand_pool(PROXY + 2, GOLD), FLOPS, FLOPS, 1)
    assert first.difference.value == pytest.approx(-2)


def test_it_is_told_and_written(hand_pool, study):
    tuned = hand_pool(PROXY, GOLD + 0.75, scores={"kl_rao_blackwell": np.ones(PROXY.shape)})
    path = TrainingPath.of(study.base, [tuned])
    plain = compared(study, tuned, path, Costs(1e6, 10.0, FLOPS[0]), 2)
    equal = at_equal_flops(study, tuned, 1e8 * FLOPS, 1e8 * FLOPS, 2)[:2]
    found = Findings(**{**vars(plain), "equal_flops": equal})
    assert told(equal, "PPO", "gold reward") in sentences({"ppo": found}, {}, PROMPTS)
    assert told(equal, "PPO", "gold reward").endswith(
        "gold reward of best-of-n minus PPO: -0.75 [-0.75, -0.75] at n = 1 (1 GFLOPs); "
        "minus its best-of-2 -0.75 [-0.75, -0.75] at n = 2 (2 GFLOPs)."
    )
    written = json.loads(json.dumps(as_json({"ppo": found}, {})))["compared"]["ppo"]["best_of_n_minus_method_at_equal_flops"]
    assert written == [
        {"k": k, "n": pytest.approx(k), "flops": k * 1e9, "value": pytest.approx(-0.75), "low": pytest.approx(-0.75),
         "high": pytest.approx(-0.75)} for k in (1, 2)
    ]  # fmt: skip
    assert not any("equal FLOPs" in line for line in sentences({"ppo": plain}, {}, PROMPTS))
