"""Pools that grow, and `generate` in bounded memory: the same candidates, fewer of them at a time."""

import gc
import tracemalloc

import numpy as np
import pytest
from pool_checks import assert_same, last_number

import bon.sampler
from bon import BestOfNSampler, Candidates, RewardError
from bon.selection import TopK

QUERIES = [[10, 11, 12], [13], [14, 15]]
COLUMNS = ("token_ids", "lengths", "texts", "logprobs", "raw_logprobs")


@pytest.fixture
def build_sampler(gpt2, tokenizer):
    def build(sample_size, reward=last_number, lengths=(3, 5, 4), **options):
        following = iter(lengths * 9)
        return BestOfNSampler(
            gpt2, tokenizer, reward, lambda: next(following), sample_size=sample_size, **{"seed": 0, **options}
        )

    return build


def test_growing_leaves_the_pool_bit_equal_and_ends_where_drawing_at_once_does(build_sampler):
    at_once = build_sampler(90).sample(QUERIES, temperature=0.8)
    sampler = build_sampler(40)
    first = sampler.sample(QUERIES, temperature=0.8)
    grown = sampler.grow(sampler.grow(first, 64, temperature=0.8), 90, temperature=0.8)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(grown.first(40), column), getattr(first, column))
    np.testing.assert_array_equal(grown.scores["proxy"][:, :40], first.scores["proxy"])
    for column in COLUMNS[:3]:
        np.testing.assert_array_equal(getattr(grown, column), getattr(at_once, column))
    for column in COLUMNS[3:]:
        np.testing.assert_allclose(getattr(grown, column), getattr(at_once, column), atol=1e-5)
    np.testing.assert_array_equal(grown.scores["proxy"], at_once.scores["proxy"])
    assert grown.metadata["tokens"] == grown.lengths.sum()
    assert {key: grown.metadata[key] for key in ("seed", "sampling", "response_lengths")} == {
        key: at_once.metadata[key] for key in ("seed", "sampling", "response_lengths")
    }


def test_only_the_new_candidates_are_drawn_and_scored(build_sampler, gpt2):
    scored, rows = [], []

    def reward(texts):
        scored.append(len(texts))
        return last_number(texts)

    sampler = build_sampler(4, reward)
    pool = sampler.sample(QUERIES)
    hook = gpt2.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        assert sampler.grow(pool, 4) is pool
        assert rows == []
        sampler.grow(pool, 6)
    finally:
        hook.remove()
    assert scored == [12, 6]
    assert max(rows) == 6


def test_growing_uses_up_no_seed_and_no_length(build_sampler):
    plain, growing = build_sampler(4), build_sampler(4)
    first = plain.sample(QUERIES)
    growing.grow(growing.sample(QUERIES), 8)
    assert first.num_candidates == 4
    np.testing.assert_array_equal(plain.sample(QUERIES).token_ids, growing.sample(QUERIES).token_ids)


def test_a_pool_from_its_file_grows_by_another_sampler_of_the_same_model(build_sampler, tmp_path):
    config = {"suppress_tokens": [20, 21], "top_k": 30}
    build_sampler(5).sample(QUERIES, **config).save(tmp_path / "pool.parquet")
    loaded = Candidates.load(tmp_path / "pool.parquet")
    grown = build_sampler(2, seed=99).grow(loaded, 9, **config)
    np.testing.assert_array_equal(grown.texts, build_sampler(9).sample(QUERIES, **config).texts)


def test_growing_refuses_what_would_be_another_pool(build_sampler, make_pool):
    sampler = build_sampler(6)
    pool = sampler.sample(QUERIES, temperature=0.7)
    with pytest.raises(ValueError, match=r"sample_size must be at least 6 .* got 5"):
        sampler.grow(pool, 5, temperature=0.7)
    with pytest.raises(ValueError, match=r"other sampling options: temperature=0.7, now None"):
        sampler.grow(pool, 8)
    with pytest.raises(ValueError, match=r"temperature=0.7, now 0.8, top_p=None, now 0.9"):
        sampler.grow(pool, 8, temperature=0.8, top_p=0.9)
    for selection in (make_pool(), pool.select(TopK(2)), pool.rows(np.array([2, 0]))):
        with pytest.raises(ValueError, match="not drawn by `sample`, or is a selection from one"):
            sampler.grow(selection, 8, temperature=0.7)
    assert_same(sampler.grow(pool.first(2), 6, temperature=0.7), pool)


def test_all_candidates_are_reachable_when_the_reward_fails_while_growing(build_sampler):
    sampler = build_sampler(4)
    pool = sampler.sample(QUERIES)
    sampler.queries_to_scores = lambda texts: [float("nan")] * len(texts)
    with pytest.raises(RewardError) as caught:
        sampler.grow(pool, 7)
    np.testing.assert_array_equal(caught.value.candidates.first(4).texts, pool.texts)
    assert caught.value.candidates.num_candidates == 7


@pytest.mark.parametrize("n_candidates", [1, 3, 40])
def test_generate_returns_the_same_from_bounded_blocks(build_sampler, monkeypatch, n_candidates):
    everything = build_sampler(50).sample(QUERIES).select(TopK(n_candidates)).full_texts
    asked = []

    def reward(texts):
        asked.append(len(texts))
        return last_number(texts)

    monkeypatch.setattr(bon.sampler, "_BLOCK", 16)
    assert build_sampler(50, reward, n_candidates=n_candidates).generate(QUERIES) == everything
    assert asked == [48, 48, 48, 6]


def test_equal_scores_go_to_the_first_drawn_across_blocks(build_sampler, monkeypatch):
    monkeypatch.setattr(bon.sampler, "_BLOCK", 4)
    pool = build_sampler(10).sample(QUERIES)
    first = build_sampler(10, lambda texts: [1.0] * len(texts), n_candidates=6).generate(QUERIES)
    assert first == pool.first(6).full_texts


def test_memory_does_not_grow_with_the_number_of_candidates(build_sampler, monkeypatch):
    monkeypatch.setattr(bon.sampler, "_BLOCK", 512)  # so large that a block outweighs what Python keeps for itself

    def reward(texts):
        gc.collect()  # transformers leaves small cycles behind each forward pass; they are not what is measured
        return last_number(texts)

    def peak(method, sample_size):
        sampler = build_sampler(sample_size, reward, lengths=(20,))
        gc.collect()
        gc.freeze()
        tracemalloc.start()
        getattr(sampler, method)([10, 11])
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gc.unfreeze()
        return highest

    peak("generate", 512)  # what is allocated once
    one_block = peak("generate", 512)
    assert peak("generate", 4096) < 1.2 * one_block
    # The measure can tell: a pool that is kept does grow.
    assert peak("sample", 4096) > 4 * one_block


def test_what_was_kept_and_the_block_are_reachable_when_the_reward_fails_late(build_sampler, monkeypatch):
    monkeypatch.setattr(bon.sampler, "_BLOCK", 4)
    calls = []

    def fails_later(texts):
        calls.append(texts)
        return last_number(texts) if len(calls) < 3 else [None] * len(texts)

    with pytest.raises(RewardError, match="None, not a number") as caught:
        build_sampler(12, fails_later, n_candidates=2).generate(QUERIES)
    kept = caught.value.candidates
    pool = build_sampler(12).sample(QUERIES)
    assert kept.num_candidates == 2 + 4
    assert kept.first(2).texts.tolist() == pool.first(8).select(TopK(2)).texts.tolist()
    np.testing.assert_array_equal(kept.texts[:, 2:], pool.texts[:, 8:])


def test_progress_shows_only_when_asked_for(build_sampler, monkeypatch):
    asked = []

    class Bar:
        def __init__(self, *args, disable, **options):
            asked.append(disable)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self, count):
            pass

    monkeypatch.setattr("bon.generation.generate.tqdm", Bar)
    monkeypatch.setattr("bon.rewards.scoring.tqdm", Bar)
    sampler = build_sampler(2)
    pool = sampler.sample(QUERIES)
    sampler.generate(QUERIES)
    sampler.grow(pool, 3)
    assert asked == [True] * 6
    asked.clear()
    sampler.sample(QUERIES, progress=True)
    sampler.grow(pool, 3, progress=True)
    assert asked == [None] * 4  # tqdm's own choice: on a terminal


def test_a_pool_says_how_long_its_responses_could_be(build_sampler):
    assert build_sampler(2, lengths=(2, 6, 1)).sample(QUERIES).metadata["response_lengths"] == [2, 6, 1]
