"""Drawing candidates: the right distribution, the right log-probabilities, and the same pool however the work is cut."""

import random

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GenerationConfig
from transformers.generation import logits_process

import bon.generation
from bon import Candidates, generate_candidates
from bon.decoding import inverse_cdf, keeps_plain_cache
from bon.randomness import candidate_uniforms

EOS, PAD = 1, 0
# Of different lengths and not sorted, so that batches are padded and reordered.
PROMPTS = [[10, 11, 12], [13], [20, 21, 22, 23, 24, 25, 26], [14, 15], [30, 31, 32]]
KINDS = ["gpt2", "llama", "qwen2", "gemma", "mistral", "opt", "bloom", "mamba"]


def assert_same(one, other, atol=1e-5):
    np.testing.assert_array_equal(one.token_ids, other.token_ids)
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_array_equal(one.texts, other.texts)
    np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol)
    np.testing.assert_allclose(one.raw_logprobs, other.raw_logprobs, atol=atol)


def responses(candidates):
    """((prompt, candidate), tokens without padding), one after the other."""
    for p, c in np.ndindex(candidates.lengths.shape):
        yield (p, c), candidates.token_ids[p, c, : candidates.lengths[p, c]].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_the_response_alone_through_the_model(kind, build_model, tokenizer, response_logits_unbatched):
    model = build_model(kind)
    assert keeps_plain_cache(model) == (kind not in ("bloom", "mamba"))
    candidates = generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=10, temperature=0.7, seed=1)
    for at, response in responses(candidates):
        logits = response_logits_unbatched(model, PROMPTS[at[0]], response).double()
        steps = range(len(response))
        assert candidates.logprobs[at] == pytest.approx(float((logits / 0.7).log_softmax(-1)[steps, response].sum()), abs=1e-4)
        assert candidates.raw_logprobs[at] == pytest.approx(float(logits.log_softmax(-1)[steps, response].sum()), abs=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "opt", "mamba"])
def test_the_pool_does_not_depend_on_how_the_work_is_cut(kind, build_model, tokenizer):
    model = build_model(kind)
    whole = generate_candidates(model, tokenizer, PROMPTS, 6, max_new_tokens=8, seed=4)
    for max_batch_tokens in (1, 40, 100):
        assert_same(
            generate_candidates(model, tokenizer, PROMPTS, 6, max_new_tokens=8, seed=4, max_batch_tokens=max_batch_tokens),
            whole,
        )


def test_the_same_call_gives_the_same_bits_and_another_seed_another_pool(gpt2, tokenizer):
    first, again, other = (generate_candidates(gpt2, tokenizer, PROMPTS, 3, max_new_tokens=8, seed=s) for s in (3, 3, 4))
    assert_same(first, again, atol=0)
    assert (first.token_ids != other.token_ids).any()


def test_candidates_of_a_prompt_and_equal_prompts_are_drawn_apart(gpt2, tokenizer):
    candidates = generate_candidates(gpt2, tokenizer, [[10, 11]] * 3, 5, max_new_tokens=8)
    assert len({text for row in candidates.texts for text in row}) == 15


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_the_first_n_of_a_large_pool_are_the_pool_of_n(kind, build_model, tokenizer):
    model = build_model(kind)
    large = generate_candidates(model, tokenizer, PROMPTS, 70, max_new_tokens=4, seed=2)  # more than a block of 64
    assert_same(large.first(5), generate_candidates(model, tokenizer, PROMPTS, 5, max_new_tokens=4, seed=2))


def test_a_pool_grown_later_is_the_pool_drawn_at_once(gpt2, tokenizer):
    options = {"max_new_tokens": 4, "seed": 2}
    at_once = generate_candidates(gpt2, tokenizer, PROMPTS, 70, **options)
    first = generate_candidates(gpt2, tokenizer, PROMPTS, 40, **options)
    rest = generate_candidates(gpt2, tokenizer, PROMPTS, 30, first_candidate=40, **options)
    grown = first.extended(rest)
    assert_same(grown, at_once)
    assert grown.metadata["tokens"] == at_once.metadata["tokens"] == int(at_once.lengths.sum())


def test_a_shard_with_its_prompt_ids_is_its_part_of_the_whole(gpt2, tokenizer):
    whole = generate_candidates(gpt2, tokenizer, PROMPTS, 3, max_new_tokens=6, seed=9)
    shard = generate_candidates(gpt2, tokenizer, [PROMPTS[4], PROMPTS[1]], 3, max_new_tokens=6, seed=9, prompt_ids=[4, 1])
    np.testing.assert_array_equal(shard.token_ids, whole.token_ids[[4, 1]])
    np.testing.assert_allclose(shard.logprobs, whole.logprobs[[4, 1]], atol=1e-5)


def test_more_tokens_leave_the_earlier_ones_as_they_were(gpt2, tokenizer):
    short, long = (generate_candidates(gpt2, tokenizer, PROMPTS, 3, max_new_tokens=t, seed=9) for t in (3, 9))
    kept = np.arange(3) < short.lengths[..., None]
    np.testing.assert_array_equal(short.token_ids[kept], long.token_ids[..., :3][kept])


def test_uniform_numbers_belong_to_their_candidate_and_token():
    many = candidate_uniforms(5, prompt_id=2, candidates=range(200), steps=7)
    assert many.shape == (200, 7)
    assert ((many >= 0) & (many < 1)).all()
    np.testing.assert_array_equal(candidate_uniforms(5, 2, range(60, 131), 3), many[60:131, :3])
    assert len(np.unique(many)) == many.size
    for other in (candidate_uniforms(6, 2, range(200), 7), candidate_uniforms(5, 3, range(200), 7)):
        assert not (other == many).any()
    # Uniform, and successive candidates and tokens uncorrelated (standard error 0.027).
    assert stats.kstest(many.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(many[:-1].ravel(), many[1:].ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(many[:, :-1].ravel(), many[:, 1:].ravel())[0, 1]) < 0.1


def test_inverse_cdf_by_hand_never_draws_the_impossible():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.2501, 0.9999, 1 - 2.0**-53], dtype=torch.float64)
    tokens = inverse_cdf(probabilities.expand(6, 5), uniforms)
    assert tokens.tolist() == [1, 1, 3, 3, 3, 3]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_follow_the_softmax_of_the_model(gpt2, tokenizer, response_logits_unbatched, temperature):
    prompt, draws = [10, 11, 12], 4000
    candidates = generate_candidates(gpt2, tokenizer, [prompt], draws, max_new_tokens=1, temperature=temperature, seed=11)
    expected = draws * (response_logits_unbatched(gpt2, prompt, [0])[0].double() / temperature).softmax(-1).numpy()
    counts = np.bincount(candidates.token_ids[0, :, 0], minlength=80)
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    assert stats.chisquare(observed, np.append(expected[~rare], expected[rare].sum())).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_whole_responses_follow_the_product_of_their_token_probabilities(
    kind, build_model, tokenizer, response_logits_unbatched
):
    # A vocabulary of 5 and 2 tokens: the end alone and 4 * 5 pairs, each with its probability from the model, unbatched.
    model, prompt, draws = build_model(kind, vocabulary=5, seed=3), [2, 3], 4000
    first = response_logits_unbatched(model, prompt, [0])[0].double().softmax(-1)
    expected = {(EOS,): draws * float(first[EOS])}
    for token in (0, 2, 3, 4):
        second = response_logits_unbatched(model, prompt, [token, 0])[1].double().softmax(-1)
        expected.update({(token, other): draws * float(first[token] * second[other]) for other in range(5)})
    candidates = generate_candidates(model, tokenizer, [prompt], draws, max_new_tokens=2, seed=5)
    counts = dict.fromkeys(expected, 0)
    for _, response in responses(candidates):
        counts[tuple(response)] += 1
    common = [key for key in expected if expected[key] >= 5]
    assert len(common) > 8
    observed = [counts[key] for key in common]
    theory = [expected[key] for key in common]
    if len(common) < len(expected):
        observed.append(draws - sum(observed))
        theory.append(draws - sum(theory))
    assert stats.chisquare(observed, theory).pvalue > 1e-3


def test_global_random_states_are_neither_read_nor_moved(gpt2, tokenizer):
    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    first = generate_candidates(gpt2, tokenizer, PROMPTS, 3, max_new_tokens=6, seed=1)
    assert states() == before
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert_same(generate_candidates(gpt2, tokenizer, PROMPTS, 3, max_new_tokens=6, seed=1), first, atol=0)


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
@pytest.mark.parametrize("eos", [EOS, [EOS, 40, 41, 42, 43, 44, 45, 46, 47]], ids=["one", "several"])
def test_a_response_ends_with_its_first_end_of_sequence_which_counts(
    kind, eos, build_model, tokenizer, response_logits_unbatched
):
    model = build_model(kind)
    ends = {eos} if isinstance(eos, int) else set(eos)
    candidates = generate_candidates(
        model, tokenizer, PROMPTS, 25, max_new_tokens=12, eos_token_id=eos, seed=8, temperature=2.0
    )
    ended = 0
    for at, response in responses(candidates):
        assert not ends & set(response[:-1])
        assert response[-1] in ends or len(response) == 12
        assert (candidates.token_ids[at][len(response) :] == PAD).all()
        if response[-1] in ends and len(response) < 12:
            ended += 1
            logprobs = (response_logits_unbatched(model, PROMPTS[at[0]], response).double() / 2).log_softmax(-1)
            assert candidates.logprobs[at] == pytest.approx(float(logprobs[range(len(response)), response].sum()), abs=1e-4)
            assert "<eos>" not in candidates.texts[at]
            assert "<pad>" not in candidates.texts[at]
    assert ended >= 5
    assert candidates.metadata["tokens"] == candidates.lengths.sum()


def test_without_padding_token_the_end_of_sequence_pads(gpt2, build_tokenizer):
    gpt2_config_pad = GenerationConfig(eos_token_id=EOS)
    saved, gpt2.generation_config = gpt2.generation_config, gpt2_config_pad
    try:
        with_pad = generate_candidates(gpt2, build_tokenizer(), PROMPTS, 20, max_new_tokens=12)
        without = generate_candidates(gpt2, build_tokenizer(pad=False), PROMPTS, 20, max_new_tokens=12)
    finally:
        gpt2.generation_config = saved
    np.testing.assert_array_equal(with_pad.lengths, without.lengths)
    np.testing.assert_allclose(with_pad.logprobs, without.logprobs, atol=1e-5)
    behind = np.arange(12) >= without.lengths[..., None]
    assert behind.any()
    assert (without.token_ids[behind] == EOS).all()
    assert (with_pad.token_ids[behind] == PAD).all()


def test_the_tokenizers_padding_side_does_not_matter(gpt2, build_tokenizer):
    left, right = (
        generate_candidates(gpt2, build_tokenizer(side), PROMPTS, 3, max_new_tokens=6) for side in ("left", "right")
    )
    assert_same(left, right, atol=0)


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


@pytest.mark.parametrize("options", [{"no_repeat_ngram_size": 1}, {"min_length": 12}], ids=lambda options: next(iter(options)))
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


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_the_most_likely_token_is_taken_without_sampling(kind, build_model, tokenizer, response_logits_unbatched):
    model = build_model(kind)
    candidates = generate_candidates(model, tokenizer, PROMPTS, 1, do_sample=False, max_new_tokens=6)
    for (p, _), response in responses(candidates):
        assert response == response_logits_unbatched(model, PROMPTS[p], response).argmax(-1).tolist()


def test_texts_given_are_tokenized_and_responses_keep_the_space_before_them(gpt2, tokenizer):
    from_text = generate_candidates(gpt2, tokenizer, ["w10 w11 w12", "w13"], 3, max_new_tokens=4)
    from_ids = generate_candidates(gpt2, tokenizer, [[10, 11, 12], [13]], 3, max_new_tokens=4)
    assert_same(from_text, from_ids)
    assert from_text.prompts == ["w10 w11 w12", "w13"]
    for (p, c), response in responses(from_text):
        assert from_text.full_texts[p][c] == tokenizer.decode(
            from_text.prompt_token_ids[p] + response, skip_special_tokens=True
        )


def test_a_character_cut_by_the_boundary_does_not_break_the_texts(build_model, byte_tokenizer):
    model = build_model("gpt2", vocabulary=258, eos_token_id=256, pad_token_id=257)
    half = byte_tokenizer("né")["input_ids"][:-1]  # the first of the two bytes of é
    candidates = generate_candidates(model, byte_tokenizer, [half], 50, max_new_tokens=3, temperature=3.0)
    for (p, c), response in responses(candidates):
        whole = byte_tokenizer.decode(half + response, skip_special_tokens=True)
        prompt = byte_tokenizer.decode(half)
        alone = byte_tokenizer.decode(response, skip_special_tokens=True)
        assert candidates.texts[p, c] == (whole[len(prompt) :] if whole.startswith(prompt) else alone)


def test_a_batch_may_be_wider_than_the_context_if_every_prompt_fits(build_model, tokenizer, response_logits_unbatched):
    # Context 64: 55 + 6 and 2 + 60 fit; side by side the batch is 55 + 60 wide.
    model = build_model("gpt2")
    prompts = [[10 + i for i in range(55)], [10, 11]]
    candidates = generate_candidates(model, tokenizer, prompts, 2, response_lengths=[6, 60], eos_token_id=79)
    for at, response in responses(candidates):
        logprobs = response_logits_unbatched(model, prompts[at[0]], response).double().log_softmax(-1)
        assert candidates.logprobs[at] == pytest.approx(float(logprobs[range(len(response)), response].sum()), abs=5e-4)


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(gpt2, tokenizer, monkeypatch):
    whole = generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=4, seed=1)
    decode, tried = bon.generation.decode, []

    def small(model, config, prompts, repeats, uniforms, limits):
        tried.append(len(uniforms))
        if len(uniforms) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(model, config, prompts, repeats, uniforms, limits)

    monkeypatch.setattr(bon.generation, "decode", small)
    assert_same(generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=4, seed=1), whole)
    assert max(tried) == 25
    assert sum(rows for rows in tried if rows <= 3) == 25


def test_running_out_of_memory_with_a_single_candidate_is_an_error(gpt2, tokenizer, monkeypatch):
    def never(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bon.generation, "decode", never)
    with pytest.raises(torch.OutOfMemoryError):
        generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=4)


def test_dropout_is_off_while_drawing_and_every_module_is_left_in_its_mode(build_model, tokenizer):
    model = build_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    steady = generate_candidates(model, tokenizer, PROMPTS, 3, max_new_tokens=6)
    model.train()
    model.transformer.h[0].eval()  # someone froze a block
    before = {name: module.training for name, module in model.named_modules()}
    assert_same(generate_candidates(model, tokenizer, PROMPTS, 3, max_new_tokens=6), steady)
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_the_models_own_generation_config_is_left_alone(kind, build_model, tokenizer):
    model = build_model(kind)
    config = model.generation_config
    before = config.to_dict()
    generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=3, temperature=0.5)
    assert model.generation_config is config
    assert config.to_dict() == before


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


def test_a_drawn_pool_survives_its_file(gpt2, tokenizer, tmp_path):
    candidates = generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=8)
    candidates.save(tmp_path / "pool.parquet")
    loaded = Candidates.load(tmp_path / "pool.parquet")
    assert dict(responses(loaded)) == dict(responses(candidates))
    np.testing.assert_array_equal(loaded.texts, candidates.texts)
    np.testing.assert_array_equal(loaded.logprobs, candidates.logprobs)
    assert loaded.metadata == candidates.metadata
    assert (loaded.metadata["seed"], loaded.metadata["dtype"], loaded.metadata["device"]) == (0, "float32", "cpu")


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
