"""What a model is, against what it does: positions that can be run, keys and values that lie in its cache."""

import pytest
import torch
import transformers
from torch import nn

from bon import generate_candidates
from bon.model_facts import cache_bytes_per_token, check_draws_texts, device_of, usable_positions, vocabulary_size
from bon.wrappers import unwrapped

SMALL = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def runs(model, length):
    ids = torch.full((1, length), 10)
    try:
        with torch.no_grad():
            model(input_ids=ids)
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta", "Camembert", "MPNet", "Bert", "Electra"])
def test_exactly_the_usable_positions_run(kind):
    config = getattr(transformers, f"{kind}Config")(max_position_embeddings=34, **SMALL)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    room = usable_positions(model)
    assert room in (32, 34)
    assert runs(model, room)
    assert not runs(model, room + 1)


@pytest.mark.parametrize(("kind", "room"), [("gpt2", 64), ("opt", 64), ("llama", 64), ("bloom", None), ("mamba", None)])
def test_positions_of_language_models(kind, room, build_model):
    model = build_model(kind)
    assert usable_positions(model) == room
    assert vocabulary_size(model) == 80


def test_a_limit_below_one_is_none(build_model):
    assert usable_positions(build_model("llama", max_position_embeddings=-1)) is None


def test_mpt_has_the_positions_of_its_longest_sequence():
    config = transformers.MptConfig(vocab_size=80, d_model=32, n_heads=4, n_layers=1, max_seq_len=16)
    assert usable_positions(transformers.MptForCausalLM(config)) == 16


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma", "mistral"])
def test_cache_bytes_are_those_of_keys_and_values(kind, build_model):
    model = build_model(kind)
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert cache_bytes_per_token(model) == 2 * config.num_hidden_layers * heads * width * 4


def test_layers_of_different_widths_are_added_up():
    config = transformers.Gemma4TextConfig(
        **{**SMALL, "num_hidden_layers": 6}, num_key_value_heads=2, head_dim=8, global_head_dim=16, sliding_window=5,
        max_position_embeddings=64, vocab_size_per_layer_input=80, hidden_size_per_layer_input=8, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = transformers.Gemma4ForCausalLM(config).eval()
    ids = torch.tensor([[10, 11, 12, 13]])
    with torch.no_grad():
        layers = model(input_ids=ids, use_cache=True).past_key_values.layers
    widths = {layer.keys.shape[-1] for layer in layers}
    assert widths == {8, 16}
    stored = sum(layer.keys.numel() + layer.values.numel() for layer in layers) * 4
    assert cache_bytes_per_token(model) == stored // 4


def test_other_models_are_refused_by_what_they_are(build_model):
    t5 = transformers.T5Config(vocab_size=80, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    gpt2 = build_model("gpt2").config
    for model, message in (
        (transformers.T5ForConditionalGeneration(t5), "T5ForConditionalGeneration is an encoder-decoder model"),
        (transformers.GPT2Model(gpt2), "GPT2Model has no language-model head"),
        (transformers.GPT2ForSequenceClassification(gpt2), "GPT2ForSequenceClassification has no language-model head"),
        (nn.Linear(1, 1), "drawn from a causal language model of transformers, got Linear"),
    ):
        with pytest.raises(ValueError, match=message):
            check_draws_texts(model)


def test_an_encoder_that_looks_ahead_is_refused(tokenizer):
    config = transformers.BertConfig(**SMALL, max_position_embeddings=64, pad_token_id=0)
    with torch.random.fork_rng():
        model = transformers.BertLMHeadModel(config).eval()
        torch.nn.init.normal_(model.bert.encoder.layer[0].attention.self.value.weight, std=1.0)
        torch.nn.init.normal_(model.bert.encoder.layer[0].attention.output.dense.weight, std=1.0)
    with pytest.raises(ValueError, match="BertLMHeadModel looks at tokens that follow"):
        generate_candidates(model, tokenizer, [[10, 11], [12]], 2, max_new_tokens=3)


class Shell(nn.Module):
    def __init__(self, module, name="module"):
        super().__init__()
        self.add_module(name, module)


class Compiled(Shell):
    """As torch.compile leaves a model: names that it has not are those of the model."""

    def __init__(self, module):
        super().__init__(module, "_orig_mod")
        self.config = module.config


def test_the_model_inside_shells_is_the_model(gpt2):
    assert unwrapped(Shell(gpt2)) is unwrapped(Shell(Shell(gpt2))) is gpt2
    assert unwrapped(Compiled(gpt2)) is unwrapped(Shell(Compiled(gpt2))) is gpt2
    assert device_of(gpt2) == torch.device("cpu")


def test_an_offloaded_model_draws_what_it_draws_on_its_device(build_model, tokenizer):
    accelerate = pytest.importorskip("accelerate")
    draw = lambda model: generate_candidates(model, tokenizer, [[10, 11], [12]], 3, max_new_tokens=4, seed=1)  # noqa: E731
    here = draw(build_model("llama"))
    away = accelerate.cpu_offload(build_model("llama"), execution_device=torch.device("cpu"))
    assert away.device.type == "meta"
    assert (draw(away).token_ids == here.token_ids).all()
    assert away.device.type == "meta"
