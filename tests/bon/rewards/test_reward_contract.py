"""What rewards may read and return, abstentions, responses that were cut: each against what is said by hand."""

import functools

import numpy as np
import pytest
import torch

from bon import Candidates, RewardError, score_candidates
from bon.rewards import checked_scores, without_unfinished
from bon.selection import (
    BestOfN,
    BestOfPoisson,
    ChiSquaredBestOfN,
    InferenceTimePessimism,
    SoftBestOfN,
    TopK,
    scores_of,
)

PROMPTS, RESPONSES = ["one ", "two "], [["a", "bb", "a"], ["a", "ccc", "dddd"]]


@pytest.fixture
def pool():
    return Candidates.from_texts(PROMPTS, RESPONSES)


def test_a_reward_reads_what_its_arguments_name(pool):
    seen = []

    def apart(prompts, responses):
        seen.extend(zip(prompts, responses, strict=True))
        return [len(response) for response in responses]

    def trl(completions, prompts, **kwargs):
        return [len(response) for response in completions]

    def chat(messages):
        assert messages[0] == [{"role": "user", "content": "one "}, {"role": "assistant", "content": "a"}]
        return [len(one[-1]["content"]) for one in messages]

    def both(texts, prompts):
        return [len(text) - len(prompt) for text, prompt in zip(texts, prompts, strict=True)]

    scored = score_candidates(pool, apart=apart, trl=trl, chat=chat, both=both)
    for column in scored.scores.values():
        assert column.tolist() == [[1, 2, 1], [1, 3, 4]]
    assert seen == [("one ", "a"), ("one ", "bb"), ("two ", "a"), ("two ", "ccc"), ("two ", "dddd")]  # equals once


def test_equal_texts_are_judged_once_and_alike(pool):
    drawn = iter(range(100))
    scored = score_candidates(pool, proxy=lambda texts: [next(drawn) for _ in texts])
    assert scored.scores["proxy"].tolist() == [[0, 1, 0], [2, 3, 4]]


def test_prompts_may_be_chats(pool):
    chats = [[{"role": "system", "content": "s"}, {"role": "user", "content": prompt}] for prompt in PROMPTS]
    scored = score_candidates(pool, chats=chats, proxy=lambda messages: [len(one) for one in messages])
    assert (scored.scores["proxy"] == 3).all()
    with pytest.raises(ValueError, match="1 chats for 2 prompts"):
        score_candidates(pool, chats=chats[:1], proxy=len)


def test_an_argument_that_nobody_gives_is_named(pool):
    def needs(prompts, responses, answers):
        return answers

    with pytest.raises(TypeError, match=r"cannot be asked for answers: .* bind others by functools.partial"):
        score_candidates(pool, proxy=needs)
    bound = functools.partial(needs, answers=[0.0] * 5)
    assert (score_candidates(pool, proxy=bound).scores["proxy"] == 0).all()
    with pytest.raises(TypeError, match="cannot be asked for y"):
        score_candidates(pool, proxy=lambda x, y: x)
    with pytest.raises(TypeError, match="a reward is a function of texts"):
        score_candidates(pool, proxy=[1.0])
    with pytest.raises(RewardError, match="reads prompts, responses, but only whole texts are known"):
        checked_scores(lambda prompts, responses: [], ["a"])


@pytest.mark.parametrize(
    "form",
    [
        lambda scores: [(score, f"why {score:.0f}") for score in scores],
        lambda scores: {"score": [(score, f"why {score:.0f}") for score in scores]},
        lambda scores: [{"score": (score, f"why {score:.0f}")} for score in scores],
    ],
)
def test_reasons_are_kept_beside_the_scores(pool, form):
    scored = score_candidates(pool, proxy=lambda responses: form([float(len(response)) for response in responses]))
    assert scored.scores["proxy"].tolist() == [[1, 2, 1], [1, 3, 4]]
    assert scored.reasons["proxy"].tolist() == [["why 1", "why 2", "why 1"], ["why 1", "why 3", "why 4"]]
    assert scored.select(BestOfN()).reasons["proxy"].tolist() == [["why 2"], ["why 4"]]


def test_several_columns_have_names(pool):
    def lengths(responses):
        return [len(response) for response in responses]

    by_column = score_candidates(
        pool, proxy=lambda responses: {"score": lengths(responses), "minus": -np.array(lengths(responses))}
    )
    by_text = score_candidates(pool, proxy=lambda responses: [{"score": n, "minus": -n} for n in lengths(responses)])
    for scored in (by_column, by_text):
        assert sorted(scored.scores) == ["proxy", "proxy.minus"]
        np.testing.assert_array_equal(scored.scores["proxy.minus"], -scored.scores["proxy"])
    with pytest.raises(RewardError, match='the columns a, b: call the one that counts "score"'):
        checked_scores(lambda texts: {"a": [0.0], "b": [1.0]}, ["x"])


@pytest.mark.parametrize(
    "returned", [[True, False], np.array([True, False]), torch.tensor([True, False]), [np.True_, torch.tensor(False)]]
)
def test_truth_values_are_one_and_zero_in_every_form(returned):
    assert checked_scores(lambda texts: returned, ["a", "b"]).tolist() == [1.0, 0.0]


def abstaining(responses):
    return [None if response == "bb" else float("nan") if response == "ccc" else len(response) for response in responses]


def test_abstaining_is_an_error_or_excludes(pool):
    with pytest.raises(RewardError, match=r"text 1 is None, not a number \(on_missing=\"exclude\" leaves it out\): 'one bb'"):
        score_candidates(pool, proxy=abstaining)
    scored = score_candidates(pool, on_missing="exclude", proxy=abstaining)
    np.testing.assert_array_equal(scored.scores["proxy"], [[1, np.nan, 1], [1, np.nan, 4]])
    assert scored.metadata["excluded"] == {"proxy": 2}
    assert scored.select(BestOfN()).texts.tolist() == [["a"], ["dddd"]]
    with pytest.raises(ValueError, match="on_missing must be error or exclude"):
        score_candidates(pool, on_missing="skip", proxy=len)
    with pytest.raises(RewardError, match=r"abstained \(proxy\) from all 3 responses to prompt 1: 'two '"):
        score_candidates(pool, on_missing="exclude", proxy=lambda texts: [None if "two" in text else 1.0 for text in texts])


RULES = [
    BestOfN(),
    SoftBestOfN(0.7),
    BestOfPoisson(1.5),
    ChiSquaredBestOfN(0.4),
    InferenceTimePessimism(0.4),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_sees_the_pool_of_those_that_have_a_score(rule, make_pool):
    scores = np.random.default_rng(0).normal(size=(6, 8))
    missing = scores.copy()
    missing[0, [0, 3]] = missing[1, 7] = missing[4, [1, 2]] = np.nan
    law = rule.law(make_pool(missing))
    for p in range(6):
        kept = ~np.isnan(missing[p])
        np.testing.assert_allclose(law[p, kept], rule.probabilities(make_pool(scores[p : p + 1, kept]))[0])
        assert (law[p, ~kept] == 0).all()
    rows = np.nan_to_num(missing)
    np.testing.assert_allclose(rule.mean(make_pool(missing)), (law * rows).sum(1))
    chosen = rule.indices(make_pool(missing), np.random.default_rng(1))[:, 0]
    assert not np.isnan(missing[np.arange(6), chosen]).any()


def test_the_best_k_need_k_with_a_score(make_pool):
    pool = make_pool([[np.nan, 1.0, 2.0], [3.0, 2.0, 1.0]])
    assert TopK(2).indices(pool).tolist() == [[2, 1], [0, 1]]
    with pytest.raises(ValueError, match="prompt 0 has 2 candidates with a score 'proxy', not 3"):
        TopK(3).indices(pool)
    with pytest.raises(ValueError, match=r"no candidate of prompt 0 .* has a score in proxy"):
        BestOfN().indices(make_pool([[np.nan, np.nan]]))
    with pytest.raises(ValueError, match="1 candidates have no score 'proxy', the first of prompt 0"):
        scores_of(pool, "proxy")


def test_responses_that_were_cut_are_kept_penalized_or_excluded():
    pool = Candidates.from_texts(PROMPTS, RESPONSES, finished=[[True, False, True], [True, True, False]])

    def scored(**options):
        return score_candidates(pool, **options, proxy=lambda responses: [len(response) for response in responses])

    assert scored().scores["proxy"].tolist() == [[1, 2, 1], [1, 3, 4]]
    lower = scored(unfinished="penalize", penalty=3.0)
    assert lower.scores["proxy"].tolist() == [[1, -1, 1], [1, 3, 1]]
    assert lower.metadata["unfinished"] == {"proxy": {"policy": "penalize", "responses": 2, "penalty": 3.0}}
    without = scored(unfinished="exclude")
    np.testing.assert_array_equal(without.scores["proxy"], [[1, np.nan, 1], [1, 3, np.nan]])
    assert without.select(BestOfN()).texts.tolist() == [["a"], ["ccc"]]


def test_policies_for_cut_responses_that_cannot_be_followed(pool):
    scored = score_candidates(pool, proxy=lambda texts: [len(text) for text in texts])
    with pytest.raises(ValueError, match="does not know which responses are finished"):
        without_unfinished(scored, "proxy")
    with pytest.raises(ValueError, match="belong together"):
        without_unfinished(scored, "proxy", "penalize")
    with pytest.raises(ValueError, match="penalty must be finite and > 0"):
        without_unfinished(scored, "proxy", "penalize", -1.0)
    with pytest.raises(ValueError, match="must be keep, penalize or exclude"):
        without_unfinished(scored, "proxy", "drop")
    cut = scored._with(finished=np.array([[True, True, True], [False, False, False]]))
    with pytest.raises(ValueError, match=r"no response to prompt 1 \('two '\) ended by itself"):
        without_unfinished(cut, "proxy")


def test_the_sampler_returns_no_candidate_that_was_excluded(gpt2, tokenizer):
    from bon import BestOfNSampler, LengthSampler

    def reward(prompts, responses):
        return [None if len(response.split()) % 2 else float(len(set(response))) for response in responses]

    options = {"length_sampler": LengthSampler(2, 6), "sample_size": 16, "seed": 0}
    sampler = BestOfNSampler(gpt2, tokenizer, reward, on_missing="exclude", n_candidates=2, **options)
    best = BestOfNSampler(gpt2, tokenizer, reward, on_missing="exclude", n_candidates=2, **options).generate([[10, 11], [12]])
    pool = sampler.sample([[10, 11], [12]])
    assert pool.metadata["excluded"]["proxy"] == np.isnan(pool.scores["proxy"]).sum() > 0
    assert best == pool.select(TopK(2)).full_texts
    with pytest.raises(RewardError, match="None, not a number"):
        BestOfNSampler(gpt2, tokenizer, reward, **options).sample([[10, 11], [12]])
