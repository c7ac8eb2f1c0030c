"""Speculative rejection: survivors are the full pool's responses, and nothing else changes."""

import numpy as np
import pytest
import torch
from pool_checks import last_number

import bon.generation.resume
from bon import RewardError, generate_candidates, score_candidates
from bon.adaptive.speculative_rejection import replay_rejection, speculative_rejection
from bon.generation.resume import continue_candidates
from bon.selection import best_of_n

EOS = 1
PROMPTS = [[10, 11, 12], [13], [20, 21, 22, 23, 24, 25, 26], [14, 15]]
ENDS = {"eos_token_id": [EOS, 40, 41, 42, 43, 44]}  # some responses end early


def full_pool(model, tokenizer, count=10, reward=last_number, **options):
    return score_candidates(generate_candidates(model, tokenizer, PROMPTS, count, **options), proxy=reward)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma", "opt", "mamba"])
@pytest.mark.parametrize("max_batch_tokens", [None, 40])
def test_survivors_are_the_responses_of_the_full_pool_and_the_others_its_beginnings(
    kind, max_batch_tokens, build_model, tokenizer
):
    model, options = build_model(kind), {"max_new_tokens": 9, "seed": 3, "temperature": 1.3, **ENDS}
    full = full_pool(model, tokenizer, **options)
    found = speculative_rejection(
        model, tokenizer, PROMPTS, 10, last_number, lengths=[2, 5], max_batch_tokens=max_batch_tokens, **options
    )
    drawn, survived = found.candidates, found.survived
    assert 0 < survived.sum() < survived.size
    assert survived.any(axis=1).all()
    for p, c in np.ndindex(survived.shape):
        length = drawn.lengths[p, c]
        assert length == full.lengths[p, c] if survived[p, c] else length in (2, 5)
        assert drawn.token_ids[p, c, :length].tolist() == full.token_ids[p, c, :length].tolist()
    np.testing.assert_array_equal(drawn.texts[survived], full.texts[survived])
    np.testing.assert_allclose(drawn.logprobs[survived], full.logprobs[survived], atol=1e-4)
    np.testing.assert_allclose(drawn.raw_logprobs[survived], full.raw_logprobs[survived], atol=1e-4)
    np.testing.assert_array_equal(drawn.scores["proxy"][survived], full.scores["proxy"][survived])
    # What it saves and loses is read off the same responses.
    saved = found.savings(full)
    np.testing.assert_array_equal(saved.tokens, drawn.lengths.sum(1))
    assert saved.tokens_saved == pytest.approx(1 - drawn.lengths.sum() / full.lengths.sum())
    assert saved.tokens_saved > 0.1
    assert (saved.reward_lost >= 0).all()
    best_survivor = np.where(survived, full.scores["proxy"], -np.inf).max(1)
    np.testing.assert_array_equal(saved.reward_lost, full.scores["proxy"].max(1) - best_survivor)
    assert drawn.metadata["tokens"] == drawn.lengths.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"min_new_tokens": 6},
        {"min_length": 9},
        {"repetition_penalty": 1.8, "top_k": 20},
        {"no_repeat_ngram_size": 1},
        {"bad_words_ids": [[5], [6, 7]], "suppress_tokens": [20]},
        {"exponential_decay_length_penalty": (2, 1.5)},
        {"response_lengths": [3, 9, 5, 7]},
        {"max_length": 12, "max_new_tokens": None},
        {"prompt_ids": [7, 3, 0, 5]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_count_tokens_count_them_from_the_prompt_in_every_stage(gpt2, tokenizer, options):
    options = {"max_new_tokens": 9, "seed": 4, **ENDS, **options}
    full = full_pool(gpt2, tokenizer, **options)
    found = speculative_rejection(gpt2, tokenizer, PROMPTS, 10, last_number, lengths=[3, 6], alpha=0.3, **options)
    kept = found.survived
    np.testing.assert_array_equal(found.candidates.lengths[kept], full.lengths[kept])
    np.testing.assert_array_equal(found.candidates.texts[kept], full.texts[kept])
    np.testing.assert_allclose(found.candidates.logprobs[kept], full.logprobs[kept], atol=1e-4)


def test_the_replay_from_the_full_pool_is_what_happens(gpt2, tokenizer):
    options = {"max_new_tokens": 9, "seed": 5, **ENDS}
    full = full_pool(gpt2, tokenizer, **options)
    for alpha, lengths in ((0.5, [2, 5]), (0.25, [1, 2, 3, 8]), (0.9, [4])):
        live = speculative_rejection(gpt2, tokenizer, PROMPTS, 10, last_number, lengths=lengths, alpha=alpha, **options)
        replayed = replay_rejection(full, tokenizer, last_number, lengths=lengths, alpha=alpha)
        np.testing.assert_array_equal(live.survived, replayed.survived)
        np.testing.assert_array_equal(live.candidates.lengths, replayed.candidates.lengths)
        np.testing.assert_array_equal(live.candidates.texts, replayed.candidates.texts)
        np.testing.assert_array_equal(live.candidates.scores["proxy"], replayed.candidates.scores["proxy"])
        np.testing.assert_array_equal(live.tokens, replayed.tokens)
        np.testing.assert_array_equal(np.isnan(replayed.candidates.logprobs), replayed.candidates.lengths < full.lengths)


def test_with_alpha_zero_it_is_plain_best_of_n(gpt2, tokenizer):
    options = {"max_new_tokens": 9, "seed": 6, **ENDS}
    full = full_pool(gpt2, tokenizer, **options)
    found = speculative_rejection(gpt2, tokenizer, PROMPTS, 10, last_number, lengths=[2, 5], alpha=0.0, **options)
    assert found.survived.all()
    np.testing.assert_array_equal(found.candidates.texts, full.texts)
    assert found.best.texts.tolist() == best_of_n(full).texts.tolist()
    saved = found.savings(full)
    assert (saved.tokens_saved, saved.reward_lost.tolist()) == (0.0, [0.0] * 4)
    assert str(saved).startswith("0.0% of the tokens saved; 0 of ")


def test_a_reward_that_the_beginning_decides_loses_nothing(gpt2, tokenizer):
    numbers = [len(prompt) for prompt in PROMPTS]

    def second_word(texts):  # of the response: prompts are told apart by their first word
        lengths = {tokenizer.decode(prompt[:1]): number for prompt, number in zip(PROMPTS, numbers, strict=True)}
        words = [(text.split(), lengths[text.split()[0]]) for text in texts]
        return [float(row[n + 1].strip("w")) if len(row) > n + 1 and row[n + 1][0] == "w" else -1.0 for row, n in words]

    options = {"max_new_tokens": 12, "seed": 7, "suppress_tokens": [0, 1, 2]}
    full = full_pool(gpt2, tokenizer, 16, second_word, **options)
    found = speculative_rejection(gpt2, tokenizer, PROMPTS, 16, second_word, lengths=[2, 4, 8], alpha=0.5, **options)
    saved = found.savings(full)
    assert saved.reward_lost.tolist() == [0.0] * 4
    assert found.best.texts.tolist() == best_of_n(full).texts.tolist()
    assert saved.tokens_saved > 0.4


def test_cuts_by_hand(make_pool, tokenizer):
    # Five responses w10.., scored by their last word; the second ends after one token.
    ids = np.array([[[10, 50, 70], [5, 0, 0], [30, 20, 60], [40, 60, 6], [20, 7, 79]]], dtype=np.int32)
    full = make_pool(
        np.array([[70.0, 5.0, 60.0, 6.0, 79.0]]), token_ids=ids, lengths=np.array([[3, 1, 3, 3, 3]]), prompt_token_ids=[[8]]
    )
    calls = []

    def reward(texts):
        calls.append(len(texts))
        return last_number(texts)

    found = replay_rejection(full, tokenizer, reward, lengths=[1, 2], alpha=0.4)
    assert calls == [5, 3, 2]  # what has been scored whole is not scored again
    # At 1: scores 10 5 30 40 20; the 0.4-quantile lies at 1.6 of 5 10 20 30 40: 16. The first goes, the second has ended.
    # At 2: 5 20 60 7 are left; the 0.4-quantile of 5 7 20 60 lies at 1.2: 9.6. The fifth goes, which would have won.
    assert found.survived.tolist() == [[False, True, True, True, False]]
    assert found.candidates.lengths.tolist() == [[1, 1, 3, 3, 2]]
    assert found.candidates.scores["proxy"].tolist() == [[10.0, 5.0, 60.0, 6.0, 7.0]]
    assert found.best.scores["proxy"].tolist() == [[60.0]]
    saved = found.savings(full)
    assert (saved.tokens.tolist(), saved.full_tokens.tolist(), saved.reward_lost.tolist()) == ([10], [13], [19.0])


def test_equal_scores_are_not_given_up(gpt2, tokenizer):
    found = speculative_rejection(
        gpt2, tokenizer, PROMPTS, 6, lambda texts: [1.0] * len(texts), lengths=[2, 4], alpha=0.7, max_new_tokens=6
    )
    assert found.survived.all()


def test_nothing_is_scored_where_all_have_ended(gpt2, tokenizer):
    calls = []

    def reward(texts):
        calls.append(len(texts))
        return last_number(texts)

    found = speculative_rejection(gpt2, tokenizer, PROMPTS, 3, reward, lengths=[2, 4], alpha=0.5, max_new_tokens=2)
    assert found.survived.all()
    assert calls == [12]


def test_running_out_of_memory_in_a_later_stage_halves_the_batch(gpt2, tokenizer, monkeypatch):
    options = {"lengths": [2, 4], "max_new_tokens": 6, "seed": 8}
    whole = speculative_rejection(gpt2, tokenizer, PROMPTS, 6, last_number, **options)
    decode, tried = bon.generation.resume.decode, []

    def small(model, config, prompts, repeats, uniforms, limits, **options):
        tried.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(model, config, prompts, repeats, uniforms, limits, **options)

    monkeypatch.setattr(bon.generation.resume, "decode", small)
    again = speculative_rejection(gpt2, tokenizer, PROMPTS, 6, last_number, **options)
    assert max(tried) > 2
    np.testing.assert_array_equal(again.candidates.texts, whole.candidates.texts)


def test_continuing_leaves_what_has_ended_and_what_was_not_asked_for(gpt2, tokenizer):
    options = {"seed": 9, **ENDS}
    short = generate_candidates(gpt2, tokenizer, PROMPTS, 8, max_new_tokens=3, **options)
    long = generate_candidates(gpt2, tokenizer, PROMPTS, 8, max_new_tokens=7, **options)
    which = np.arange(8) % 2 == np.arange(4)[:, None] % 2
    before = short.token_ids.copy(), short.lengths.copy(), short.texts.copy()
    more = continue_candidates(gpt2, tokenizer, short, [7] * 4, which=which, max_new_tokens=3, **options)
    np.testing.assert_array_equal(more.lengths, np.where(which, long.lengths, short.lengths))
    np.testing.assert_array_equal(more.texts, np.where(which, long.texts, short.texts))
    for array, saved in zip((short.token_ids, short.lengths, short.texts), before, strict=True):
        np.testing.assert_array_equal(array, saved)
    assert more.metadata["tokens"] == more.lengths.sum()
    shard = generate_candidates(
        gpt2, tokenizer, PROMPTS[2:], 3, max_new_tokens=3, prompt_ids=[2, 3], first_candidate=5, **options
    )
    rest = continue_candidates(
        gpt2, tokenizer, shard, [7, 7], prompt_ids=[2, 3], first_candidate=5, max_new_tokens=3, **options
    )
    np.testing.assert_array_equal(rest.texts, long.texts[2:, 5:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": []}, r"lengths must ascend from at least 1, got \[\]"),
        ({"lengths": [0, 2]}, "lengths must ascend"),
        ({"lengths": [3, 3]}, "lengths must ascend"),
        ({"alpha": 1.0}, r"alpha must lie in \[0, 1\), got 1.0"),
        ({"alpha": float("nan")}, "alpha must lie"),
        ({"forced_eos_token_id": EOS}, "drawn in stages cannot honour it"),
        ({"max_new_tokens": 64}, "leaves no room for 64 more"),
        ({"num_beams": 2}, "num_beams=2 cannot be honoured"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_drawn(gpt2, tokenizer, monkeypatch, options, message):
    def never(*arguments, **options):
        raise AssertionError("drawn")

    monkeypatch.setattr("bon.adaptive.speculative_rejection.draw", never)
    with pytest.raises(ValueError, match=message):
        speculative_rejection(gpt2, tokenizer, PROMPTS, 4, last_number, **{"lengths": [2, 4], "max_new_tokens": 6, **options})


def test_shapes_that_do_not_fit_are_refused(gpt2, tokenizer, make_pool):
    pool = generate_candidates(gpt2, tokenizer, PROMPTS, 2, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"response_lengths must have shape \(4,\), got \(3,\)"):
        continue_candidates(gpt2, tokenizer, pool, [4] * 3, seed=0)
    with pytest.raises(ValueError, match=r"which must have shape \(4, 2\), got \(4,\)"):
        continue_candidates(gpt2, tokenizer, pool, [4] * 4, seed=0, which=np.ones(4, dtype=bool))
    found = replay_rejection(full_pool(gpt2, tokenizer, 4, max_new_tokens=4), tokenizer, last_number, lengths=[2])
    with pytest.raises(ValueError, match="other prompts"):
        found.savings(make_pool(np.zeros((4, 3))))


def test_what_was_drawn_is_reachable_when_the_reward_fails_on_a_part(gpt2, tokenizer):
    calls = []

    def fails_later(texts):
        calls.append(len(texts))
        return last_number(texts) if len(calls) == 1 else [float("nan")] * len(texts)

    with pytest.raises(RewardError, match="not finite") as caught:
        speculative_rejection(gpt2, tokenizer, PROMPTS, 4, fails_later, lengths=[2, 4], max_new_tokens=6)
    assert caught.value.candidates.lengths.max() == 4
