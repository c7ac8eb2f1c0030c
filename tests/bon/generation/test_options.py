"""Sampling options: transformers' own processors, lengths, precedence, and what is refused."""

import numpy as np
import pytest
import torch
from pool_checks import EOS, PAD, PROMPTS, assert_same, responses
from transformers import GenerationConfig
from transformers.generation import logits_process

from bon import generate_candidates


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_response_lengths_are_honoured_within_one_batch(kind, build_model, tokenizer):
    model = build_model(kind)
    lengths = [2, 7, 1, 5, 9]
    candidates = generate_candidates(model, tokenizer, PROMPTS, 6, response_lengths=lengths, seed=3)
    for (p, _), response in responses(candidates):
        assert len(response) == lengths[p] or response[-1] == EOS
        assert len(response) <= lengths[p]
    np.testing.assert_array_equal(candidates.lengths.max(1), lengths)
    long = generate_candidates(model, tokenizer, PROMPTS, 6, max_new_tokens=9, seed=3)
    for (p, c), response in responses(candidates):
        assert long.token_ids[p, c, : len(response)].tolist() == response


def test_max_length_counts_the_prompt(gpt2, tokenizer):
    candidates = generate_candidates(gpt2, tokenizer, PROMPTS, 8, max_length=10)
    np.testing.assert_array_equal(candidates.lengths.max(1), [10 - len(prompt) for prompt in PROMPTS])


WARPINGS = {
    "temperature": ({"temperature": 0.6}, lambda prompt: [logits_process.TemperatureLogitsWarper(0.6)]),
    "top_k": ({"top_k": 5}, lambda prompt: [logits_process.TopKLogitsWarper(5)]),
    "top_p": ({"top_p": 0.6}, lambda prompt: [logits_process.TopPLogitsWarper(0.6)]),
    "min_p": ({"min_p": 0.2}, lambda prompt: [logits_process.MinPLogitsWarper(0.2)]),
    "typical_p": ({"typical_p": 0.5}, lambda prompt: [logits_process.TypicalLogitsWarper(0.5)]),
    "repetition_penalty": (
        {"repetition_penalty": 1.8},
        lambda prompt: [logits_process.RepetitionPenaltyLogitsProcessor(1.8)],
    ),
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": 1}, lambda prompt: [logits_process.NoRepeatNGramLogitsProcessor(1)]),
    "min_new_tokens": (
        {"min_new_tokens": 6},
        lambda prompt: [logits_process.MinNewTokensLengthLogitsProcessor(len(prompt), 6, EOS)],
    ),
    "min_length": ({"min_length": 11}, lambda prompt: [logits_process.MinLengthLogitsProcessor(11, EOS)]),
    "suppress_tokens": (
        {"suppress_tokens": [20, 21, EOS]},
        lambda prompt: [logits_process.SuppressTokensLogitsProcessor([20, 21, EOS])],
    ),
    "bad_words_ids": (
        {"bad_words_ids": [[5], [6, 7]]},
        lambda prompt: [logits_process.NoBadWordsLogitsProcessor([[5], [6, 7]], EOS)],
    ),
    "several": (
        {"repetition_penalty": 1.5, "min_new_tokens": 4, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
        lambda prompt: [
            logits_process.RepetitionPenaltyLogitsProcessor(1.5),
            logits_process.MinNewTokensLengthLogitsProcessor(len(prompt), 4, EOS),
            logits_process.TemperatureLogitsWarper(0.8),
            logits_process.TopKLogitsWarper(20),
            logits_process.TopPLogitsWarper(0.9),
        ],
    ),
}


@pytest.mark.parametrize("name", WARPINGS)
@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_warped_logprobs_are_those_of_transformers_own_processors_on_the_prompt_alone(
    kind, name, build_model, tokenizer, response_logits_unbatched
):
    options, processors_for = WARPINGS[name]
    model = build_model(kind)
    candidates = generate_candidates(model, tokenizer, PROMPTS, 6, max_new_tokens=8, seed=6, **options)
    for at, response in responses(candidates):
        prompt = PROMPTS[at[0]]
        raw = response_logits_unbatched(model, prompt, response)
        warped = 0.0
        for step, token in enumerate(response):
            ids, logits = torch.tensor([prompt + response[:step]]), raw[step : step + 1].clone()
            for processor in processors_for(prompt):
                logits = processor(ids, logits)
            warped += float(logits.double().log_softmax(-1)[0, token])
        assert candidates.logprobs[at] == pytest.approx(warped, abs=2e-4)
        raw_logprob = float(raw.double().log_softmax(-1)[range(len(response)), response].sum())
        assert candidates.raw_logprobs[at] == pytest.approx(raw_logprob, abs=2e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 1},
        {"min_length": 12},
        {"watermarking_config": {"greenlist_ratio": 0.5, "bias": 4.0, "context_width": 2}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_warping_that_reads_the_past_does_not_read_the_padding_of_the_batch(build_model, build_tokenizer, options):
    # With the end of sequence as padding, its being in front of a short prompt must change nothing.
    model = build_model("gpt2", pad_token_id=None)
    tokenizer = build_tokenizer(pad=False)
    options = {**options, "max_new_tokens": 12, "eos_token_id": [EOS, *range(40, 60)], "pad_token_id": EOS}
    together = generate_candidates(model, tokenizer, PROMPTS, 8, **options)
    apart = generate_candidates(model, tokenizer, PROMPTS, 8, max_batch_tokens=1, **options)
    assert_same(together, apart)


def test_a_forced_end_comes_at_each_prompts_own_limit(gpt2, tokenizer):
    lengths = [4, 6, 3, 5, 6]
    candidates = generate_candidates(gpt2, tokenizer, PROMPTS, 4, response_lengths=lengths, forced_eos_token_id=EOS)
    for (p, _), response in responses(candidates):
        assert response[-1] == EOS, f"prompt {p}: {response}"


def test_top_k_of_zero_as_trl_wrote_it_is_the_whole_distribution(gpt2, tokenizer):
    config = GenerationConfig(min_length=-1, top_k=0.0, top_p=1.0, do_sample=True, pad_token_id=PAD, max_new_tokens=5)
    plain = generate_candidates(gpt2, tokenizer, PROMPTS, 4, max_new_tokens=5)
    assert_same(generate_candidates(gpt2, tokenizer, PROMPTS, 4, generation_config=config), plain)


def test_keywords_win_over_the_callers_config_which_wins_over_the_models(build_model, tokenizer):
    model = build_model("gpt2")
    model.generation_config = GenerationConfig(temperature=0.2, top_k=7, eos_token_id=EOS, max_new_tokens=3)
    config = GenerationConfig(temperature=0.5, max_new_tokens=4)

    def sampling(**options):
        return generate_candidates(model, tokenizer, PROMPTS, 1, **options).metadata["sampling"]

    assert {k: sampling()[k] for k in ("temperature", "top_k", "max_new_tokens")} == {
        "temperature": 0.2, "top_k": 7, "max_new_tokens": 3
    }  # fmt: skip
    mixed = sampling(generation_config=config, max_new_tokens=5)
    assert (mixed["temperature"], mixed["top_k"], mixed["max_new_tokens"]) == (0.5, 7, 5)
    assert (config.max_new_tokens, config.top_k, model.generation_config.temperature) == (4, None, 0.2)


def test_a_max_length_of_the_caller_wins_over_max_new_tokens_of_the_models_own_config(build_model, tokenizer):
    model = build_model("gpt2")
    model.generation_config = GenerationConfig(max_new_tokens=20, eos_token_id=EOS)
    candidates = generate_candidates(model, tokenizer, [[10, 11, 12]], 20, max_length=8)
    assert candidates.lengths.max() == 5


def test_a_padding_token_outside_the_models_vocabulary_is_never_fed_to_it(build_model, build_tokenizer):
    # The usual add_special_tokens({"pad_token": "[PAD]"}) without resizing the embeddings.
    model = build_model("gpt2", pad_token_id=None)
    tokenizer = build_tokenizer(pad=False)
    plain = generate_candidates(model, tokenizer, PROMPTS, 8, max_new_tokens=8)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 80
    added = generate_candidates(model, tokenizer, PROMPTS, 8, max_new_tokens=8)
    np.testing.assert_array_equal(added.lengths, plain.lengths)
    np.testing.assert_allclose(added.logprobs, plain.logprobs, atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "prompts is empty"),
        ([[10], []], {}, "prompt 1 is empty"),
        (["w10", ""], {}, "prompt 1 is empty"),
        ([[10, 80]], {}, r"prompt 0 holds token ids 10\.\.80, but the model has 80"),
        ([[10], [-1, 3]], {}, r"prompt 1 holds token ids -1\.\.3"),
        ([[10], [5] * 60], {}, "prompt 1 has 60 tokens, which leaves no room for 5 more in a context of 64"),
        ([[10], [5] * 70], {}, "prompt 1 has 70 tokens"),
        ([[10]], {"max_new_tokens": 64}, "leaves no room for 64 more"),
        ([[10]], {"max_new_tokens": 0}, "(?i)at least 1|greater than 0"),
        ([[10]], {"max_new_tokens": None}, "set max_new_tokens"),
        ([[10, 11, 12]], {"max_new_tokens": None, "max_length": 3}, "prompt 0 may have responses of 0 tokens"),
        ([[10]], {"num_candidates": 0}, "num_candidates must be at least 1, got 0"),
        ([[10]], {"do_sample": False}, "do_sample=False draws the same text 2 times"),
        ([[10]], {"num_beams": 2}, "num_beams=2 cannot be honoured"),
        ([[10]], {"num_return_sequences": 3}, "num_return_sequences=3 cannot be honoured"),
        ([[10]], {"stop_strings": ["."]}, "stop_strings=.* cannot be honoured"),
        ([[10]], {"max_time": 1.0}, "max_time=1.0 cannot be honoured"),
        ([[10]], {"penalty_alpha": 0.6}, "penalty_alpha=0.6 cannot be honoured"),
        ([[10]], {"guidance_scale": 2.0}, "guidance_scale=2.0 cannot be honoured"),
        ([[10]], {"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3 cannot be honoured"),
        ([[10]], {"temperature": 0.0}, "(?i)temperature.*0"),
        ([[10]], {"temperature": -1.0}, "(?i)temperature.*-1"),
        (
            [[10]],
            {"temperature": float("inf")},
            r"temperature must be > 0 \(at 0 all candidates are one text\) and finite, got inf",
        ),
        (
            [[10]],
            {"temperature": float("nan")},
            r"temperature must be > 0 \(at 0 all candidates are one text\) and finite, got nan",
        ),
        ([[10]], {"top_p": 1.5}, r"top_p must be > 0 and at most 1 \(the whole distribution\), got 1\.5"),
        ([[10]], {"top_p": 0.0}, r"top_p must be .*, got 0\.0"),
        ([[10]], {"top_k": 2.7}, r"top_k must be a whole number from 0 .*, got 2\.7"),
        ([[10]], {"top_k": -1}, "top_k must be a whole number from 0 .*, got -1"),
        ([[10]], {"top_k": float("inf")}, "top_k must be a whole number"),
        ([[10]], {"typical_p": 1.5}, r"typical_p must be > 0 and at most 1 .*, got 1\.5"),
        ([[10]], {"min_p": 1.5}, r"min_p must be at least 0 .*, got 1\.5"),
        ([[10]], {"epsilon_cutoff": 2.0}, r"epsilon_cutoff must be .* below 1, got 2\.0"),
        ([[10]], {"eta_cutoff": -1.0}, r"eta_cutoff must be at least 0 .*, got -1\.0"),
        ([[10]], {"return_dict_in_generate": True, "output_scores": True}, "output_scores=True cannot be honoured"),
        (
            [[10], [11]],
            {"suppress_tokens": list(range(80))},
            "no next token of prompt 0 has a probability: .* no token to draw",
        ),
        ([[10]], {"response_lengths": [3, 4]}, "2 response_lengths for 1 prompts"),
        ([[10]], {"response_lengths": [0]}, "prompt 0 may have responses of 0 tokens"),
        ([[10]], {"prompt_ids": [1, 2]}, "2 prompt_ids for 1 prompts"),
        ("w10 w11", {}, "(?i)list of"),
        ([[10]], {"first_candidate": -1}, "first_candidate|non-negative"),
        ([[10]], {"seed": -1}, "seed|non-negative"),
        ([[10]], {"max_batch_tokens": 0}, "max_batch_tokens must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(gpt2, tokenizer, prompts, options, message):
    options = {"num_candidates": 2, "max_new_tokens": 5, **options}
    with pytest.raises(ValueError, match=message):
        generate_candidates(gpt2, tokenizer, prompts, **options)


def test_options_that_change_nothing_are_accepted(gpt2, tokenizer):
    plain = generate_candidates(gpt2, tokenizer, PROMPTS, 2, max_new_tokens=4)
    neutral = generate_candidates(
        gpt2, tokenizer, PROMPTS, 2, max_new_tokens=4, num_beams=1, num_return_sequences=1, use_cache=True
    )
    assert_same(plain, neutral)


def test_an_unknown_option_is_refused_by_name(gpt2, tokenizer):
    with pytest.raises(TypeError, match="not an option of GenerationConfig: temprature"):
        generate_candidates(gpt2, tokenizer, PROMPTS, 2, max_new_tokens=4, temprature=0.7)


@pytest.mark.parametrize("vocabulary", [80, 300])  # of one block of tokens, and of two and a part
@pytest.mark.parametrize("options", [{}, {"do_sample": False}, {"top_p": 0.9}], ids=["plain", "greedy", "processors"])
def test_logits_that_are_no_numbers_are_an_error(options, vocabulary, build_model, tokenizer):
    model = build_model("gpt2", vocabulary=vocabulary)
    with torch.no_grad():
        model.transformer.wte.weight[13] = torch.nan
    with pytest.raises(ValueError, match=r"no next token of prompt [01] has a probability: .* logits are not finite"):
        generate_candidates(model, tokenizer, [[10], [13]], 1, max_new_tokens=4, **options)


def test_what_a_model_would_have_generate_return_is_its_own_affair(build_model, tokenizer):
    model = build_model("gpt2")
    plain = generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=4)
    model.generation_config = GenerationConfig(return_dict_in_generate=True, output_scores=True, eos_token_id=EOS)
    assert_same(generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=4), plain)


def test_a_whole_number_is_a_temperature(gpt2, tokenizer):
    whole, plain = (generate_candidates(gpt2, tokenizer, PROMPTS, 4, max_new_tokens=4, temperature=t) for t in (2, 2.0))
    assert_same(whole, plain)


def test_an_end_of_text_that_never_comes_may_be_minus_one(build_model, build_tokenizer):
    model, tokenizer = build_model("gpt2", pad_token_id=None), build_tokenizer(pad=False)
    never = generate_candidates(model, tokenizer, PROMPTS, 20, max_new_tokens=12, eos_token_id=-1)
    assert (never.lengths == 12).all()


def test_sampling_that_is_asked_for_as_none_is_sampling(gpt2, tokenizer):
    asked = generate_candidates(gpt2, tokenizer, PROMPTS, 4, max_new_tokens=4, do_sample=None)
    assert_same(asked, generate_candidates(gpt2, tokenizer, PROMPTS, 4, max_new_tokens=4))
