"""Rewards: the named class and nothing else, whatever the batch; and checks that name the text that failed."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from bon import ClassifierReward, RewardError, score_candidates
from bon.rewards import checked_scores

TEXTS = [
    "good",
    "bad w10 w11 w12 w13",
    "w05 w06",
    "w20 w21 w22 w23 w24 w25 w26 w27",
    "",
    "good good bad",
    "w70 w71 w72 w73 w74 w75",
]


def classifier(kind, labels, **options):
    id2label = dict(enumerate(labels))
    common = {"vocab_size": 80, "id2label": id2label, "label2id": {v: k for k, v in id2label.items()}, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "gpt2":
            config = transformers.GPT2Config(
                **{
                    "n_positions": 32,
                    "n_embd": 32,
                    "n_layer": 2,
                    "n_head": 4,
                    "pad_token_id": 0,
                    "bos_token_id": 1,
                    **common,
                    **options,
                }
            )
            model = transformers.GPT2ForSequenceClassification(config)
        elif kind == "distilbert":
            config = transformers.DistilBertConfig(
                **{
                    "max_position_embeddings": 32,
                    "dim": 32,
                    "hidden_dim": 48,
                    "n_layers": 2,
                    "n_heads": 4,
                    **common,
                    **options,
                }
            )
            model = transformers.DistilBertForSequenceClassification(config)
        else:
            config = transformers.RobertaConfig(
                **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "max_position_embeddings": 14, "pad_token_id": 0, "bos_token_id": 1, **common, **options}
            )  # fmt: skip
            model = transformers.RobertaForSequenceClassification(config)
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, 0.0, 0.2)
    return model.eval()


def logits_alone(model, tokenizer, text):
    """The oracle: one text through the model, no padding."""
    ids = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id]
    with torch.no_grad():
        return (
            model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0].double()
        )


@pytest.mark.parametrize("kind", ["gpt2", "distilbert"])
def test_two_classes_give_the_log_odds_of_the_named_one(kind, tokenizer):
    model = classifier(kind, ["negative", "positive"])
    positive = ClassifierReward(model, tokenizer, "positive")(TEXTS)
    negative = ClassifierReward(model, tokenizer, "negative")(TEXTS)
    for text, plus, minus in zip(TEXTS, positive, negative, strict=True):
        probability = logits_alone(model, tokenizer, text).softmax(0)
        assert plus == pytest.approx(float((probability[1] / probability[0]).log()), abs=1e-4)
        assert minus == pytest.approx(-plus, abs=1e-9)
    assert max(positive) - min(positive) > 0.1


def test_three_classes_give_the_log_odds_against_all_others(tokenizer):
    model = classifier("distilbert", ["negative", "neutral", "positive"])
    rewards = ClassifierReward(model, tokenizer, "neutral")(TEXTS)
    for text, reward in zip(TEXTS, rewards, strict=True):
        share = logits_alone(model, tokenizer, text).softmax(0)[1]
        assert reward == pytest.approx(float((share / (1 - share)).log()), abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "distilbert"])
def test_a_single_output_is_the_reward_itself(kind, tokenizer):
    model = classifier(kind, ["LABEL_0"])
    rewards = ClassifierReward(model, tokenizer, "LABEL_0")(TEXTS)
    expected = [float(logits_alone(model, tokenizer, text)[0]) for text in TEXTS]
    assert rewards == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "distilbert"])
def test_rewards_do_not_depend_on_batches_padding_side_or_order(kind, tokenizer, build_tokenizer):
    model = classifier(kind, ["negative", "positive"])
    rewards = np.array(ClassifierReward(model, tokenizer, "positive")(TEXTS))
    one_by_one = ClassifierReward(model, tokenizer, "positive", batch_tokens=1)
    right = ClassifierReward(model, build_tokenizer("right"), "positive", batch_tokens=20)
    np.testing.assert_allclose(one_by_one(TEXTS), rewards, atol=1e-5)
    np.testing.assert_allclose(right(TEXTS), rewards, atol=1e-5)
    np.testing.assert_allclose(right(TEXTS[::-1])[::-1], rewards, atol=1e-5)


@pytest.mark.parametrize("tokenizer_pads", [True, False])
@pytest.mark.parametrize("model_pad", [None, 0, 1])
def test_a_causal_classifier_reads_its_last_token_whatever_model_and_tokenizer_call_padding(
    build_tokenizer, tokenizer_pads, model_pad
):
    model = classifier("gpt2", ["negative", "positive"], pad_token_id=model_pad)
    tokenizer = build_tokenizer(pad=tokenizer_pads)
    rewards = ClassifierReward(model, tokenizer, "positive")(TEXTS)
    for text, reward in zip(TEXTS, rewards, strict=True):
        logits = logits_alone(model, tokenizer, text)
        assert reward == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)


def test_texts_beyond_the_context_are_cut_to_it(tokenizer):
    model = classifier("distilbert", ["negative", "positive"])
    long = " ".join(f"w{10 + i}" for i in range(50))
    cut = " ".join(f"w{10 + i}" for i in range(32))
    reward = ClassifierReward(model, tokenizer, "positive")
    assert reward([long, "good"]) == pytest.approx(reward([cut, "good"]), abs=1e-6)
    assert ClassifierReward(model, tokenizer, "positive", max_length=2)(["w10 w11 w12"]) == pytest.approx(
        reward(["w10 w11"]), abs=1e-6
    )


def test_a_tokenizer_that_knows_a_shorter_context_than_the_model_config_is_believed(build_tokenizer):
    # RoBERTa counts positions from pad_token_id + 1: with 14 embeddings only 13 tokens fit (514 and 512 in the real one).
    model = classifier("roberta", ["negative", "positive"])
    tokenizer = build_tokenizer()
    tokenizer.model_max_length = 13
    long = " ".join(f"w{10 + i}" for i in range(40))
    cut = " ".join(f"w{10 + i}" for i in range(13))
    reward = ClassifierReward(model, tokenizer, "positive")
    assert reward([long]) == pytest.approx(reward([cut]), abs=1e-6)


def test_an_unknown_label_is_refused_with_the_labels_there_are(tokenizer):
    model = classifier("distilbert", ["negative", "positive"])
    with pytest.raises(ValueError, match="no label 'POSITIVE'; its labels are 'negative', 'positive'"):
        ClassifierReward(model, tokenizer, "POSITIVE")


def test_dropout_is_off_nothing_is_drawn_and_tokens_are_counted(tokenizer):
    model = classifier("distilbert", ["negative", "positive"], dropout=0.5, seq_classif_dropout=0.5).train()
    reward = ClassifierReward(model, tokenizer, "positive")
    state = torch.get_rng_state()
    assert reward(TEXTS) == reward(TEXTS)
    assert torch.equal(torch.get_rng_state(), state)
    # 1 + 5 + 2 + 8 + 1 (the empty text, judged from the end of sequence) + 3 + 6, twice.
    assert reward.tokens_read == 52


def test_no_texts_give_no_rewards(tokenizer):
    assert ClassifierReward(classifier("distilbert", ["a", "b"]), tokenizer, "a")([]) == []


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2.5],
        (1.0, 2.5),
        np.array([1.0, 2.5], dtype=np.float32),
        torch.tensor([1.0, 2.5]),
        torch.tensor([[1.0], [2.5]]),
        torch.tensor([1.0, 2.5], dtype=torch.bfloat16),
        torch.tensor([1.0, 2.5], requires_grad=True),
        [torch.tensor(1.0), torch.tensor(2.5)],
        [torch.tensor([1.0]), torch.tensor([2.5])],
        [np.float32(1.0), np.float64(2.5)],
        [torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(2.5, requires_grad=True)],
        {"a": 1.0, "b": 2.5}.values(),
        [[1.0], [2.5]],
    ],
    ids=["list", "tuple", "numpy", "tensor", "column", "bfloat16", "grad", "list of tensors", "list of rows", "numpy scalars",
         "list of other tensors", "view", "rows"],
)  # fmt: skip
def test_scores_may_come_in_any_common_form(returned):
    scores = checked_scores(lambda texts: returned, ["a", "b"])
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0.0, float("nan"), 1.0], r"text 1 is nan, not finite.*: 'second'"),
        ([0.0, 1.0, float("-inf")], r"text 2 is -inf, not finite: 'third'"),
        (torch.tensor([float("nan"), 0.0, 1.0]), r"text 0 is nan, not finite: 'first'"),
        ([0.0, "1.5", 1.0], r"text 1 is '1\.5', not a number: 'second'"),
        ([0.0, "great", 1.0], r"text 1 is 'great', not a number: 'second'"),
        ([0.0, None, 1.0], r"text 1 is None, not a number: 'second'"),
        (
            [{"label": "POSITIVE", "score": 1.0}] * 3,
            r"pipeline.*use ClassifierReward\(pipe\.model, pipe\.tokenizer, 'POSITIVE'\)",
        ),
        ([[{"label": "A", "score": 1.0}]] * 3, "what a pipeline of transformers returns"),
        ([{"a": 1.0}, {"b": 1.0}, {"a": 1.0}], r"text 1 has the columns \['b'\], that of text 0 has \['a'\]"),
        (np.zeros((3, 2)), "returned 2 numbers for each text: name the columns"),
        ([0.0, 1.0], "2 scores for 3 texts, none for text 2: 'third'"),
        ([0.0] * 4, "4 scores for 3 texts$"),
        ([[0.0, 1.0]] * 3, r"text 0 is \[0\.0, 1\.0\], not a number: 'first'"),
        ([torch.zeros(3)] * 3, r"text 0 is tensor.*, not a number: 'first'"),
        ([torch.empty((), device="meta")] * 3, "text 0 is tensor.*, not a number: 'first'"),
        ([0.0, 10**400, 1.0], "text 1 is 10+, not a number: 'second'"),
        ([], "0 scores for 3 texts, none for text 0: 'first'"),
        (None, "returned NoneType, not one number for each of 3 texts"),
        (0.5, "returned float, not one number for each of 3 texts"),
        ("abc", "returned str, not one number"),
        ({"first": 1.0, "second": 2.0, "third": 3.0}, "returned dict, not one number"),
    ],
)
def test_a_wrong_score_is_an_error_that_names_the_index_and_the_text(returned, message):
    with pytest.raises(RewardError, match=message):
        checked_scores(lambda texts: returned, ["first", "second", "third"])


def test_a_reward_that_raises_is_the_cause_of_the_error():
    def broken(texts):
        raise KeyError("score")

    with pytest.raises(RewardError, match="the reward raised KeyError: 'score'") as caught:
        checked_scores(broken, ["a"])
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_long_text_is_shown_with_both_its_ends():
    text = "the prompt that all share " + "and " * 30 + "an ending of its own"
    with pytest.raises(RewardError, match=r"'the prompt that all share .* \.\.\. .* an ending of its own'$") as caught:
        checked_scores(lambda texts: [float("nan")], [text])
    assert len(str(caught.value)) < 150


def test_texts_are_numbered_through_the_whole_pool(make_pool):
    pool = make_pool(prompts=50, candidates=100)  # 40 prompts are scored at a time
    last = pool.full_texts[49][99]
    with pytest.raises(RewardError, match=rf"the reward of text 4999 is nan, not finite .*: '{last}'"):
        score_candidates(pool, proxy=lambda texts: [float("nan") if text == last else 0.0 for text in texts])


def test_a_reward_is_needed_by_its_name(make_pool):
    with pytest.raises(TypeError, match="needs a reward by its name"):
        score_candidates(make_pool())
    with pytest.raises(TypeError, match="positional"):
        score_candidates(make_pool(), lambda texts: [0.0] * len(texts))


def test_every_candidate_gets_the_score_of_its_own_full_text(make_pool):
    pool = make_pool(prompts=3, candidates=4)
    scored = score_candidates(
        pool, proxy=lambda texts: [float(text.rsplit(" ", 1)[1]) for text in texts], length=lambda t: map_len(t)
    )
    for p, c in np.ndindex(3, 4):
        assert scored.scores["proxy"][p, c] == pytest.approx(p + c / 10)
        assert scored.scores["length"][p, c] == len(pool.full_texts[p][c])
    assert pool.scores == {}


def map_len(texts):
    return [len(text) for text in texts]


def test_pools_larger_than_a_block_are_scored_in_order(make_pool):
    pool = make_pool(prompts=3, candidates=3000)  # a block holds at most 4096 texts: one prompt at a time here
    calls = []

    def reward(texts):
        calls.append(len(texts))
        return [int(text.rsplit(".", 1)[1]) for text in texts]

    scored = score_candidates(pool, proxy=reward)
    np.testing.assert_array_equal(scored.scores["proxy"], np.tile(np.arange(3000.0), (3, 1)))
    assert calls == [3000] * 3


def test_what_was_scored_before_the_failure_is_reachable_from_it(make_pool):
    pool = dataclasses.replace(make_pool(prompts=2, candidates=2), metadata={"seed": 3})
    with pytest.raises(RewardError) as caught:
        score_candidates(pool, proxy=map_len, gold=lambda texts: [float("nan")] * len(texts))
    kept = caught.value.candidates
    assert list(kept.scores) == ["proxy"]
    np.testing.assert_array_equal(kept.texts, pool.texts)
    assert kept.metadata == {"seed": 3}
