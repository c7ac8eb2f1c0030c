"""The same pool however the work is cut: seeds, shards, batches, memory, and nobody else's state."""

import random

import numpy as np
import pytest
import torch
from pool_checks import PROMPTS, assert_same, responses
from scipy import stats

import bon.generation.generate
from bon import generate_candidates
from bon.generation.randomness import candidate_uniforms


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "opt", "mamba", "rwkv"])
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


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_global_random_states_are_neither_read_nor_moved(kind, build_model, tokenizer):
    model = build_model(kind)

    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    first = generate_candidates(model, tokenizer, PROMPTS, 3, max_new_tokens=6, seed=1)
    assert states() == before
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert_same(generate_candidates(model, tokenizer, PROMPTS, 3, max_new_tokens=6, seed=1), first, atol=0)


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
    decode, tried = bon.generation.generate.decode, []

    def small(model, config, prompts, repeats, uniforms, limits, **options):
        tried.append(len(uniforms))
        if len(uniforms) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(model, config, prompts, repeats, uniforms, limits, **options)

    monkeypatch.setattr(bon.generation.generate, "decode", small)
    assert_same(generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=4, seed=1), whole)
    assert max(tried) == 25
    assert sum(rows for rows in tried if rows <= 3) == 25


def test_running_out_of_memory_with_a_single_candidate_is_an_error(gpt2, tokenizer, monkeypatch):
    def never(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bon.generation.generate, "decode", never)
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
