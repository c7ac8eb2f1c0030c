"""Rows share a batch where each gets what it gets alone: found out from models that do, and from models that do not."""

import numpy as np
import pytest
import torch
import transformers

from bon import generate_candidates
from bon.generation.agreement import Sharing, sharing
from bon.generation.options import resolve_generation_config
from bon.model_view import view_of

PROMPTS = [[10, 11, 12, 13, 14, 15, 16, 17, 18], [20, 21], [30, 31, 32, 33]]
SMALL = {
    "vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def sharp(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.2, generator=generator)
    return model.eval()


def found(model, tokenizer, longest=20):
    return sharing(view_of(model), resolve_generation_config(model, tokenizer, None, {}), longest)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gemma", "mistral", "opt", "bloom", "mamba"])
def test_families_whose_rows_are_independent_share_batches_of_any_lengths(kind, build_model, tokenizer):
    assert found(build_model(kind), tokenizer) is Sharing.ANY


def test_a_model_that_ignores_masks_shares_none_of_two_lengths(build_model, tokenizer):
    assert found(build_model("rwkv"), tokenizer) is not Sharing.ANY


def odd(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "roformer":
            return sharp(transformers.RoFormerForCausalLM(transformers.RoFormerConfig(**SMALL, is_decoder=True)))
        if kind == "roberta":
            return sharp(transformers.RobertaForCausalLM(transformers.RobertaConfig(**SMALL, is_decoder=True)))
        options = {"vocab_size": 80, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
        special = {"max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
        return sharp(transformers.BartForCausalLM(transformers.BartConfig(**options, **special, is_decoder=True)))


@pytest.mark.parametrize("kind", ["roformer", "roberta", "bart"])
def test_models_that_count_padding_draw_what_they_draw_alone(kind, tokenizer):
    model = odd(kind)
    pool = generate_candidates(model, tokenizer, PROMPTS, 1, do_sample=False, max_new_tokens=6)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)[0, len(prompt) :]
        np.testing.assert_array_equal(pool.token_ids[row, 0, : pool.lengths[row, 0]], alone[: pool.lengths[row, 0]])


def test_positions_that_depend_on_the_longest_row_ask_for_rows_of_one_length(build_model, tokenizer):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = build_model("llama", rope_parameters=rope)
    assert found(model, tokenizer, longest=64) is Sharing.ANY
    assert found(model, tokenizer, longest=65) is Sharing.EQUAL


def test_it_is_found_out_once_and_moves_no_generator(build_model, tokenizer, monkeypatch):
    model = build_model("gpt2", resid_pdrop=0.5).train()
    calls = []
    model.register_forward_hook(lambda *arguments: calls.append(1))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found(model, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert not calls  # hooks of the caller count what is drawn, not what is tried
    monkeypatch.setattr("bon.generation.agreement._tried", None)
    assert found(model, tokenizer) is Sharing.ANY
