"""Pools from elsewhere: what needs no tokens works on them, what does says so, and files bring them back."""

import copy
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from bon import Candidates, score_candidates
from bon.candidates import MissingColumnError, stacked
from bon.estimators import best_of_n_mean
from bon.selection import BestOfN, Medoid, SoftBestOfN, TopK

PROMPTS, RESPONSES = ["a", "b"], [["x", "yy", "zzz"], ["u", "vv", "w"]]


@pytest.fixture
def pool():
    return Candidates.from_texts(PROMPTS, RESPONSES, scores={"proxy": [[0.0, 2.0, 1.0], [5.0, 1.0, 3.0]]})


def test_selection_estimators_and_rewards_work_without_tokens(pool):
    assert pool.select(BestOfN()).texts.tolist() == [["yy"], ["u"]]
    assert pool.select(TopK(2)).texts.tolist() == [["yy", "zzz"], ["u", "w"]]
    assert pool.select(SoftBestOfN(1e-6), np.random.default_rng(0)).texts.tolist() == [["yy"], ["u"]]
    assert best_of_n_mean(pool.scores["proxy"])[:, -1].tolist() == [2.0, 5.0]
    scored = score_candidates(pool, size=lambda texts: [len(text) for text in texts])
    assert scored.scores["size"].tolist() == [[2, 3, 4], [2, 3, 2]]
    assert pool.rows([1]).first(2).texts.tolist() == [["u", "vv"]]
    assert pool.extended(pool).texts[0].tolist() == RESPONSES[0] * 2
    assert stacked([pool, pool]).prompts == PROMPTS * 2
    assert pool.finished is None
    assert repr(pool) == "Candidates(2 prompts, 3 candidates each, scores: proxy)"


@pytest.mark.parametrize("column", ["prompt_token_ids", "token_ids", "lengths", "logprobs", "raw_logprobs"])
def test_a_column_of_tokens_is_refused_by_its_name(pool, column):
    with pytest.raises(MissingColumnError, match=rf"this pool has no .* \({column}\): it was made from texts"):
        getattr(pool, column)
    assert not pool.has(column)
    assert not hasattr(pool, column)


def test_what_reads_tokens_says_so(pool):
    with pytest.raises(ValueError, match="this pool has no lengths in tokens"):
        pool.select(Medoid())


def test_a_wrong_attribute_is_an_ordinary_error(pool):
    with pytest.raises(AttributeError, match="no attribute 'token_idz'"):
        pool.token_idz  # noqa: B018


def test_copies_and_pickles_lack_the_same(pool):
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert other.texts.tolist() == RESPONSES
        assert not other.has("token_ids")


def test_a_file_brings_back_what_there_was(pool, tmp_path):
    reasons = np.array([["short", None, "é"], ["", "b", "c"]], dtype=object)
    full = pool._with(logprobs=np.arange(6.0).reshape(2, 3), finished=np.eye(2, 3, dtype=bool)).with_reasons(proxy=reasons)
    for some in (pool, full):
        some.save(tmp_path / "pool.parquet")
        back = Candidates.load(tmp_path / "pool.parquet")
        assert back.prompts == PROMPTS
        assert back.texts.tolist() == RESPONSES
        assert back.has("logprobs") == some.has("logprobs")
        assert not back.has("token_ids")
        np.testing.assert_array_equal(back.scores["proxy"], some.scores["proxy"])
    np.testing.assert_array_equal(back.logprobs, full.logprobs)
    np.testing.assert_array_equal(back.finished, full.finished)
    assert back.reasons["proxy"].tolist() == reasons.tolist()
    assert back.take(np.array([[2], [0]])).reasons["proxy"].tolist() == [["é"], [""]]


def test_scores_may_lack_some():
    pool = Candidates.from_texts(["a"], [["x", "y"]], scores={"proxy": [[None, 1.0]]})
    np.testing.assert_array_equal(pool.scores["proxy"], [[np.nan, 1.0]])


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (["a"], [["x"], ["y"]], "1 prompts, but 2 rows of responses"),
        (["a", "b"], [["x", "z"], ["y"]], "prompt 1 has 1 responses, prompt 0 has 2: all need equally many; cut them to 1"),
        (["a"], ["x"], r"responses\[0\] must be a list of texts, not str: one is \[response\]"),
        ("a", [["x"]], "prompts must be a list, one entry a prompt, got str"),
        (["a"], [[1]], r"responses\[0\] must hold texts, got int"),
        ([1], [["x"]], r"prompts\[0\] must be a text, got int"),
        ([], [], "at least one prompt and one response"),
    ],
)
def test_what_is_no_pool_is_refused(prompts, responses, message):
    with pytest.raises(ValueError, match=message):
        Candidates.from_texts(prompts, responses)


def test_columns_of_another_shape_or_kind_are_refused():
    with pytest.raises(ValueError, match=r"scores\['proxy'\] has shape \(1, 1\), but texts says .* = \(1, 2\)"):
        Candidates.from_texts(["a"], [["x", "y"]], scores={"proxy": [[1.0]]})
    with pytest.raises(ValueError, match=r"logprobs must hold numbers"):
        Candidates.from_texts(["a"], [["x", "y"]], logprobs=[["p", "q"]])


def completion(text, ids, reason="stop", logprob=-1.0):
    return SimpleNamespace(text=text, token_ids=ids, finish_reason=reason, cumulative_logprob=logprob)


def request(prompt, ids, *outputs):
    return SimpleNamespace(prompt=prompt, prompt_token_ids=ids, outputs=list(outputs))


def test_what_vllm_returns_is_a_pool_with_tokens():
    outputs = [
        request("a", [5], completion("x", [6, 1]), completion("yy", [7, 8, 9], "length", -3.0)),
        request("b", [5, 6], completion("z", (1,)), completion("w", [9, 1])),
    ]
    pool = Candidates.from_vllm(outputs)
    assert pool.prompt_token_ids == [[5], [5, 6]]
    assert pool.lengths.tolist() == [[2, 3], [1, 2]]
    assert pool.token_ids[0].tolist() == [[6, 1, 0], [7, 8, 9]]
    assert pool.finished.tolist() == [[True, False], [True, True]]
    assert pool.raw_logprobs.tolist() == [[-1.0, -3.0], [-1.0, -1.0]]
    assert not pool.has("logprobs")
    assert Candidates.from_vllm(outputs, logprobs_mode="processed_logprobs").has("logprobs")


def test_vllm_without_texts_or_tokens(tokenizer):
    outputs = [request(None, [10, 11], completion("x", [6], logprob=None))]
    with pytest.raises(ValueError, match="prompt 0 was given to vLLM as token ids: pass the tokenizer"):
        Candidates.from_vllm(outputs)
    pool = Candidates.from_vllm(outputs, tokenizer)
    assert pool.prompts == ["w10 w11"]
    assert not pool.has("raw_logprobs")
    with pytest.raises(ValueError, match="a response to prompt 0 has no token at all"):
        Candidates.from_vllm([request("a", [5], completion("", []))])


def test_a_file_of_a_line_a_candidate_and_one_of_a_line_a_prompt_are_one_pool(tmp_path):
    rows = [
        {"prompt": p, "response": r, "s": len(r), "end": r != "w"}
        for p, row in zip(PROMPTS, RESPONSES, strict=True)
        for r in row
    ]
    mixed = [rows[0], rows[3], rows[1], rows[4], rows[5], rows[2]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, mixed)) + "\n\n")
    wide = [
        {"prompt": p, "response": row, "s": [len(r) for r in row], "end": [r != "w" for r in row]}
        for p, row in zip(PROMPTS, RESPONSES, strict=True)
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, wide)))
    for name in ("a", "b"):
        pool = Candidates.from_jsonl(tmp_path / f"{name}.jsonl", scores=["s"], finished="end")
        assert pool.prompts == PROMPTS
        assert pool.texts.tolist() == RESPONSES
        assert pool.scores["s"].tolist() == [[1, 2, 3], [1, 2, 1]]
        assert pool.finished.tolist() == [[True] * 3, [True, True, False]]
        assert pool.metadata == {"source": f"{name}.jsonl"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1 is no JSON"),
        ("[1]", "line 1 must be an object, got list"),
        ('{"prompt": "a"}', "line 1 has no 'response'; it has 'prompt'"),
        ('{"prompt": 1, "response": "x"}', "line 1: 'prompt' must be a text, got int"),
        ('{"prompt": "a", "response": "x"}\n{"prompt": "b", "response": ["x", "y"]}', "prompt 1 .'b'. has 2 responses"),
        ("\n", "holds no candidates"),
    ],
)
def test_a_line_that_is_no_candidate_is_named(tmp_path, content, message):
    (tmp_path / "pool.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        Candidates.from_jsonl(tmp_path / "pool.jsonl")


def test_a_drawn_pool_knows_which_responses_ended(gpt2, tokenizer, tmp_path):
    from bon import generate_candidates

    pool = generate_candidates(gpt2, tokenizer, [[10, 11], [12]], 32, max_new_tokens=20)
    last = np.take_along_axis(pool.token_ids, pool.lengths[..., None] - 1, 2)[..., 0]
    assert 0 < pool.finished.sum() < pool.finished.size
    np.testing.assert_array_equal(pool.finished, last == tokenizer.eos_token_id)
    pool.first(4).save(tmp_path / "pool.parquet")
    np.testing.assert_array_equal(Candidates.load(tmp_path / "pool.parquet").finished, pool.finished[:, :4])
