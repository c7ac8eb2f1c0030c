"""Pools are drawn once: read again, grown, taken up after an interruption, and never mixed up."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from same_pools import assert_same

from bon import Candidates
from suite.config.run import SamplingConfig
from suite.metrics.cost import seconds_per_candidate
from suite.metrics.evaluation import Study, curve_rows
from suite.metrics.rows import select
from suite.metrics.vocabulary import BASE_LOGPROB, MONTE_CARLO, PROXY_TOKENS, RAO_BLACKWELL
from suite.pools import maker as pools
from suite.pools import recipe
from suite.pools.maker import PoolMaker
from suite.runtime.hashing import digest


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(pools, "PROMPT_BLOCK", 3)


@pytest.fixture
def make(tmp_path, policy, judges, prompts):
    """make(**changes) -> a maker of pools of 7 prompts (blocks of 3, 3 and 1) and 6 tokens."""

    def maker(**changes):
        settings = {
            "cache": tmp_path,
            "base": policy,
            "judges": judges,
            "sampling": SamplingConfig(max_new_tokens=6),
            "prompts": prompts[:7],
        }
        return PoolMaker(**{**settings, **changes})

    return maker


@pytest.fixture
def closed(monkeypatch):
    """Once called, drawing and scoring are errors."""

    def close():
        def refuse(*_, **__):
            raise AssertionError("something was drawn or scored")

        monkeypatch.setattr(recipe, "generate_candidates", refuse)
        monkeypatch.setattr(recipe, "score_candidates", refuse)
        monkeypatch.setattr(recipe, "sequence_kl", refuse)

    return close


def shards(folder):
    return sorted(folder.glob("pools/*/*.parquet"))


def test_what_a_pool_of_the_base_policy_holds(make, policy, judges, prompts):
    pool = make().pool(policy, 4, seed=0)
    assert pool.token_ids.shape[:2] == (7, 4)
    assert [list(ids) for ids in pool.prompt_token_ids] == prompts[:7]
    assert set(pool.scores) == {"proxy", "gold", PROXY_TOKENS}
    for name, judge in judges.items():
        expected = [judge.reward([text])[0] for text in pool.full_texts[4]]
        assert pool.scores[name][4] == pytest.approx(expected, abs=1e-5)
    assert (pool.ref_logprobs == pool.logprobs).all()
    assert pool.metadata["tokens"] == pool.lengths.sum()
    assert pool.metadata["policy"] == policy.digest
    assert pool.metadata["sampling"]["temperature"] == 1.0
    assert len({text for row in pool.texts for text in row}) > 14


def test_the_second_time_nothing_is_drawn(make, policy, closed, tmp_path):
    first = make().pool(policy, 4, seed=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    closed()
    assert_same(first, make().pool(policy, 4, seed=0))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(shards(tmp_path)) == 3


def test_a_pool_grows(make, policy, closed, tmp_path):
    eight = make().pool(policy, 8, seed=0)
    twelve = make().pool(policy, 12, seed=0)
    assert twelve.num_candidates == 12
    assert_same(eight, twelve.first(8))
    assert len(shards(tmp_path)) == 6
    assert twelve.metadata["tokens"] == twelve.lengths.sum()
    closed()
    assert_same(twelve, make().pool(policy, 12, seed=0))


def test_a_grown_pool_is_the_pool_drawn_at_once(make, policy, tmp_path):
    make().pool(policy, 8, seed=0)
    grown = make().pool(policy, 12, seed=0)
    whole = make(cache=tmp_path / "other").pool(policy, 12, seed=0)
    assert (grown.texts == whole.texts).all()
    assert grown.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
    assert grown.scores["proxy"] == pytest.approx(whole.scores["proxy"], abs=1e-4)


def test_part_of_a_pool(make, policy, closed):
    whole = make().pool(policy, 12, seed=0)
    closed()
    part = make().pool(policy, 5, seed=0)
    assert_same(part, whole.first(5))


def test_a_part_costs_its_share(make, policy):
    whole = make().pool(policy, 12, seed=0)
    part = make().pool(policy, 3, seed=0)
    assert part.metadata["tokens"] == part.lengths.sum()
    assert seconds_per_candidate(part) == pytest.approx(seconds_per_candidate(whole))


def test_an_interrupted_run_keeps_finished_shards(make, policy, monkeypatch, tmp_path):
    drawn = []
    real = recipe.generate_candidates

    def interrupted(*arguments, prompt_ids, **options):
        if prompt_ids[0] == 3:
            raise KeyboardInterrupt
        drawn.append(prompt_ids)
        return real(*arguments, prompt_ids=prompt_ids, **options)

    monkeypatch.setattr(recipe, "generate_candidates", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().pool(policy, 4, seed=0)
    assert drawn == [[0, 1, 2]]
    kept = shards(tmp_path)
    assert len(kept) == 1
    assert Candidates.load(kept[0]).scores["gold"].shape == (3, 4)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == kept

    def counted(*arguments, prompt_ids, **options):
        drawn.append(prompt_ids)
        return real(*arguments, prompt_ids=prompt_ids, **options)

    monkeypatch.setattr(recipe, "generate_candidates", counted)
    pool = make().pool(policy, 4, seed=0)
    assert drawn == [[0, 1, 2], [3, 4, 5], [6]]
    assert pool.num_prompts == 7


def test_interrupted_while_scoring_leaves_no_half_scored_shard(make, policy, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "score_candidates", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make().pool(policy, 4, seed=0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_blocks_do_not_matter(make, policy, monkeypatch, tmp_path):
    in_blocks = make().pool(policy, 4, seed=0)
    monkeypatch.setattr(pools, "PROMPT_BLOCK", 32)
    at_once = make(cache=tmp_path / "other").pool(policy, 4, seed=0)
    assert (in_blocks.texts == at_once.texts).all()
    assert in_blocks.prompts == at_once.prompts


@pytest.mark.parametrize("what", ["seed", "temperature", "length", "top_p", "prompts", "policy", "base", "proxy"])
def test_everything_that_changes_the_draws_or_scores_changes_the_folder(make, policy, judges, prompts, tmp_path, what):
    other = dataclasses.replace(policy, digest="other")
    changes = {
        "temperature": {"sampling": SamplingConfig(max_new_tokens=6, temperature=0.7)},
        "length": {"sampling": SamplingConfig(max_new_tokens=5)},
        "top_p": {"sampling": SamplingConfig(max_new_tokens=6, top_p=0.9)},
        "prompts": {"prompts": prompts[1:8]},
        "base": {"base": other},
        "proxy": {"judges": {**judges, "proxy": dataclasses.replace(judges["proxy"], digest="other")}},
    }
    make().pool(policy, 2, seed=0)
    before = set(shards(tmp_path))
    make(**changes.get(what, {})).pool(other if what == "policy" else policy, 2, seed=1 if what == "seed" else 0)
    after = set(shards(tmp_path))
    assert len(before) == 3
    assert len(after) == 6
    assert len({path.parent for path in after}) == 6


def test_seeds_draw_different_candidates(make, policy):
    one, two = make().pool(policy, 4, seed=0), make().pool(policy, 4, seed=1)
    assert (one.texts != two.texts).mean() > 0.9


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_of_an_identical_copy_is_zero(make, policy, temperature):
    twin = dataclasses.replace(policy, name="twin", model=copy.deepcopy(policy.model), digest="twin")
    pool = make(sampling=SamplingConfig(max_new_tokens=6, temperature=temperature)).pool(twin, 3, seed=0)
    more = {BASE_LOGPROB} if temperature != 1.0 else set()
    assert set(pool.scores) == {"proxy", "gold", PROXY_TOKENS, MONTE_CARLO, RAO_BLACKWELL} | more
    assert np.abs(pool.scores[MONTE_CARLO]).max() < 1e-4
    assert np.abs(pool.scores[RAO_BLACKWELL]).max() < 1e-4
    assert pool.ref_logprobs == pytest.approx(pool.logprobs, abs=1e-3)


def test_kl_of_a_changed_policy(make, policy):
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        model.transformer.ln_f.bias.add_(torch.linspace(-0.5, 0.5, 32))
    tuned = dataclasses.replace(policy, name="tuned", model=model, digest="tuned")
    pool = make().pool(tuned, 16, seed=0)
    assert (pool.scores[RAO_BLACKWELL] > 0).all()
    assert pool.scores[MONTE_CARLO] == pytest.approx(pool.logprobs - pool.ref_logprobs, abs=1e-3)
    spread = pool.scores[MONTE_CARLO].std() / np.sqrt(pool.scores[MONTE_CARLO].size)
    assert abs(pool.scores[MONTE_CARLO].mean() - pool.scores[RAO_BLACKWELL].mean()) < 5 * spread
    base = make().pool(policy, 16, seed=0)
    assert MONTE_CARLO not in base.scores


def test_measuring_a_kl_leaves_gradients_on(make, policy):
    twin = dataclasses.replace(policy, name="twin", model=copy.deepcopy(policy.model), digest="twin")
    make().pool(twin, 2, seed=0)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_without_a_finite_kl_there_is_no_column(make, policy):
    twin = dataclasses.replace(policy, name="twin", digest="twin")
    pool = make(sampling=SamplingConfig(max_new_tokens=6, top_k=5)).pool(twin, 2, seed=0)
    assert set(pool.scores) == {"proxy", "gold", PROXY_TOKENS, BASE_LOGPROB}
    assert pool.ref_logprobs is None


@pytest.mark.parametrize("warp", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}])
def test_perplexity_is_that_of_the_raw_base_policy_however_it_is_sampled(make, policy, warp):
    """One response at a time through the raw model, no cache and no padding; perplexity is per token."""
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        model.transformer.ln_f.bias.add_(torch.linspace(-0.5, 0.5, 32))
    tuned = dataclasses.replace(policy, name="tuned", model=model, digest="tuned")
    maker = make(sampling=SamplingConfig(max_new_tokens=6, **warp))
    base = maker.pool(policy, 2, seed=0)
    for pool, method in ((base, "base"), (maker.pool(tuned, 2, seed=0), "ppo")):
        surprise = np.zeros(pool.lengths.shape)
        for p, c in np.ndindex(*surprise.shape):
            prompt, response = list(pool.prompt_token_ids[p]), pool.token_ids[p, c, : pool.lengths[p, c]].tolist()
            with torch.no_grad():
                logits = policy.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
            surprise[p, c] = torch.nn.functional.cross_entropy(logits, torch.tensor(response)).item()
        rows = curve_rows(Study(base, 0, 50), pool, method, None if method == "base" else 1, 2, np.ones(pool.lengths.shape))
        (row,) = select(list(rows), metric="perplexity", n=1)
        assert row.value == pytest.approx(math.exp(surprise.mean()), rel=1e-4)


def test_seconds_of_a_request(hand_pool):
    # 2 prompts x 5 candidates: 2 s to draw, 1 s to score.
    assert seconds_per_candidate(hand_pool(np.zeros((2, 5)))) == pytest.approx((0.2, 0.1))


def test_digest_is_short_and_of_everything():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
    assert len(digest("x")) == 16
