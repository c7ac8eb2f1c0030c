"""Models inside wrappers: TRL's value head, PEFT's adapters. The PEFT tests run where PEFT is installed."""

import warnings

import numpy as np
import pytest
import torch

from bon import generate_candidates
from bon.likelihood import sequence_logprobs
from bon.wrappers import unwrapped

PROMPTS = [[10, 11, 12], [13]]
OPTIONS = {"max_new_tokens": 6, "seed": 1}


@pytest.fixture
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third parties, at import
        return pytest.importorskip("peft")


@pytest.fixture
def wrapped(peft):
    """wrapped(model, config) -> the model with a random adapter; PEFT's own deprecation warnings stay out of the way."""

    def wrap(model, config):
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return peft.get_peft_model(model, config).eval()

    return wrap


class ValueHead(torch.nn.Module):
    """What TRL's wrapper is to a sampler: no `generate`, no `config`, the model under `pretrained_model`."""

    def __init__(self, model):
        super().__init__()
        self.pretrained_model = model
        self.v_head = torch.nn.Linear(32, 1)


def test_a_bare_model_is_itself_and_a_value_head_wraps_one(gpt2):
    assert unwrapped(gpt2) is gpt2
    assert unwrapped(ValueHead(gpt2)) is gpt2


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gemma", "opt", "mamba"])
def test_the_model_in_a_value_head_draws_and_judges_as_it_does_alone(kind, build_model, tokenizer):
    model = build_model(kind)
    alone, inside = (generate_candidates(m, tokenizer, PROMPTS, 3, **OPTIONS) for m in (model, ValueHead(model)))
    np.testing.assert_array_equal(inside.token_ids, alone.token_ids)
    np.testing.assert_array_equal(sequence_logprobs(ValueHead(model), alone), sequence_logprobs(model, alone))


@pytest.mark.parametrize(("kind", "layer"), [("gpt2", "c_attn"), ("llama", "q_proj"), ("mamba", "in_proj")])
def test_a_lora_adapter_takes_part_until_it_is_disabled(peft, wrapped, kind, layer, build_model, tokenizer):
    plain = generate_candidates(build_model(kind), tokenizer, PROMPTS, 8, **OPTIONS)
    lora = {"target_modules": [layer], "init_lora_weights": False, "r": 4, "lora_alpha": 32}
    adapted = wrapped(build_model(kind), peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=layer == "c_attn", **lora))
    drawn = generate_candidates(adapted, tokenizer, PROMPTS, 8, **OPTIONS)
    headed = generate_candidates(ValueHead(adapted), tokenizer, PROMPTS, 8, **OPTIONS)
    np.testing.assert_array_equal(headed.token_ids, drawn.token_ids)
    assert (drawn.token_ids != plain.token_ids).any()
    with adapted.disable_adapter():
        np.testing.assert_array_equal(
            generate_candidates(adapted, tokenizer, PROMPTS, 8, **OPTIONS).token_ids, plain.token_ids
        )
    merged = adapted.merge_and_unload()
    np.testing.assert_array_equal(generate_candidates(merged, tokenizer, PROMPTS, 8, **OPTIONS).token_ids, drawn.token_ids)


def test_virtual_tokens_are_refused(peft, wrapped, build_model, tokenizer):
    tuned = wrapped(build_model("gpt2"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match=r"virtual tokens .*PROMPT_TUNING"):
        generate_candidates(tuned, tokenizer, PROMPTS, 3, **OPTIONS)
