"""A Llama with grouped queries and rotations trains like any other policy; classifiers of another tokenizer score it."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from suite.baselines.interface import TrainingTask, train
from suite.config.baselines import PPOConfig, RLOOConfig
from suite.config.run import PolicyConfig, SamplingConfig
from suite.data.imdb import make_prompts
from suite.data.text_keys import clean
from suite.models.gguf_wheel import unpacked
from suite.models.policies import load_policy

gguf = pytest.importorskip("gguf", reason="reads and writes GGUF files: pip install -e '.[smollm2]'")
from gguf_files import HEADS, KEY_HEADS, byte_bpe, write_gguf  # noqa: E402


@pytest.fixture(scope="module")
def llama_policy(some_reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    bpe = byte_bpe([clean(text) for text, _ in some_reviews[::40]], 350)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=bpe.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128,
            tie_word_embeddings=True, initializer_range=0.2,
        )  # fmt: skip
        write_gguf(folder / "tiny.gguf", LlamaForCausalLM(config), bpe, gguf.GGMLQuantizationType.Q8_0)
    path = unpacked(folder / "tiny.gguf", folder / "cache")
    return load_policy(PolicyConfig("llama", str(path)), torch.device("cpu"))


@pytest.mark.parametrize("kind", [PPOConfig, RLOOConfig])
def test_training(llama_policy, judges, splits, tmp_path, kind):
    prompts = make_prompts(splits["ppo"][:30], lambda text: llama_policy.tokenizer(text)["input_ids"])[:16]
    config = kind(updates=2, batch_size=8, checkpoint_every=2)
    task = TrainingTask(config, SamplingConfig(max_new_tokens=5), llama_policy, judges["proxy"], prompts, 0, tmp_path)
    training = train(task)
    assert [row["update"] for row in training.log] == [1, 2]
    for row in training.log:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
    # Before the first step the policy is the reference; after it, it is not.
    assert training.log[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    tuned = AutoModelForCausalLM.from_pretrained(training.checkpoints[2]).state_dict()
    base = llama_policy.model.state_dict()
    assert tuned.keys() == base.keys()
    moved = [name for name, values in tuned.items() if not torch.equal(values, base[name])]
    assert {"model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight"} <= set(moved)
