"""Drawing candidates: the right distribution, the right log-probabilities, the right ends and texts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_checks import EOS, PAD, PROMPTS, assert_same, responses
from scipy import stats
from transformers import GenerationConfig

from bon import Candidates, generate_candidates
from bon.generation.sampling import inverse_cdf, most_likely, sampled
from bon.generation.token_loop import keeps_plain_cache

KINDS = ["gpt2", "llama", "qwen2", "gemma", "mistral", "opt", "bloom", "mamba", "rwkv"]


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_the_response_alone_through_the_model(kind, build_model, tokenizer, response_logits_unbatched):
    model = build_model(kind)
    assert keeps_plain_cache(model) == (kind not in ("bloom", "mamba", "rwkv"))
    candidates = generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=10, temperature=0.7, seed=1)
    for at, response in responses(candidates):
        logits = response_logits_unbatched(model, PROMPTS[at[0]], response).double()
        steps = range(len(response))
        assert candidates.logprobs[at] == pytest.approx(float((logits / 0.7).log_softmax(-1)[steps, response].sum()), abs=1e-4)
        assert candidates.raw_logprobs[at] == pytest.approx(float(logits.log_softmax(-1)[steps, response].sum()), abs=1e-4)


def test_inverse_cdf_by_hand_never_draws_the_impossible():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.2501, 0.9999, 1 - 2.0**-53], dtype=torch.float64)
    tokens = inverse_cdf(probabilities.expand(6, 5), uniforms)
    assert tokens.tolist() == [1, 1, 3, 3, 3, 3]


@settings(deadline=None, max_examples=60)
@given(vocabulary=st.sampled_from([2, 127, 128, 129, 256, 300, 641]), holes=st.floats(0, 0.98), seed=st.integers(0, 10_000))
def test_inverse_cdf_finds_what_one_long_sum_finds(vocabulary, holes, seed):
    generator = np.random.default_rng(seed)
    weights = generator.lognormal(0, 3, (6, vocabulary)).astype(np.float32)
    weights[generator.random(weights.shape) < holes] = 0
    weights[np.arange(6), generator.integers(vocabulary, size=6)] = generator.random(6) + 0.1
    uniforms = np.append(generator.random(4), [0.0, 1 - 2.0**-53])
    tokens = inverse_cdf(torch.from_numpy(weights), torch.from_numpy(uniforms)).numpy()
    assert (np.take_along_axis(weights, tokens[:, None], 1) > 0).all()
    cdf = weights.astype(np.float64).cumsum(1) / weights.sum(1, keepdims=True, dtype=np.float64)
    below, above = (np.take_along_axis(np.pad(cdf, ((0, 0), (1, 0))), tokens[:, None] + k, 1)[:, 0] for k in (0, 1))
    assert (below - 1e-6 <= uniforms).all()
    assert (uniforms <= above + 1e-6).all()


@pytest.mark.parametrize("vocabulary", [5, 300])
def test_every_token_gets_its_share_of_the_uniform_numbers(vocabulary):
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(0))
    uniforms = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    tokens, logprobs = sampled(logits.expand(100_000, -1), uniforms)
    shares = torch.bincount(tokens, minlength=vocabulary) / 100_000
    expected = logits[0].double().softmax(-1)
    torch.testing.assert_close(shares.double(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(logprobs.double(), expected.log()[tokens], atol=1e-5, rtol=0)
    tokens, logprobs = most_likely(logits)
    assert tokens.item() == expected.argmax()
    assert logprobs.item() == pytest.approx(float(expected.max().log()), abs=1e-5)


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


def test_a_character_cut_by_the_boundary_goes_to_the_responses(build_model, byte_tokenizer):
    model = build_model("gpt2", vocabulary=258, eos_token_id=256, pad_token_id=257)
    half = byte_tokenizer("né")["input_ids"][:-1]  # the first of the two bytes of é
    candidates = generate_candidates(model, byte_tokenizer, [half], 50, max_new_tokens=3, temperature=3.0)
    assert list(candidates.prompts) == ["n"]
    for (p, c), response in responses(candidates):
        assert "n" + candidates.texts[p, c] == byte_tokenizer.decode(half + response, skip_special_tokens=True)


def test_a_drawn_pool_survives_its_file(gpt2, tokenizer, tmp_path):
    candidates = generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=8)
    candidates.save(tmp_path / "pool.parquet")
    loaded = Candidates.load(tmp_path / "pool.parquet")
    assert dict(responses(loaded)) == dict(responses(candidates))
    np.testing.assert_array_equal(loaded.texts, candidates.texts)
    np.testing.assert_array_equal(loaded.logprobs, candidates.logprobs)
    assert loaded.metadata == candidates.metadata
    assert (loaded.metadata["seed"], loaded.metadata["dtype"], loaded.metadata["device"]) == (0, "float32", "cpu")
