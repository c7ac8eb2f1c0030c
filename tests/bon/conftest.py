"""Tiny models built from configs, tokenizers built in place, and pools written by hand. Nothing is downloaded."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bon import Candidates

settings.register_profile("bon", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("bon")

PAD, EOS, UNK = 0, 1, 2
VOCABULARY = 80
CONTEXT = 64


def _sharpened(model, seed, spread):
    """The model with weights large enough that its next-token distribution is far from uniform and depends on the past."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "A_log" not in name:
                parameter.normal_(0.0, spread, generator=generator)
    return model.eval()


def _build_model(kind, seed=0, spread=0.2, vocabulary=VOCABULARY, **options):
    special = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    llama_like = {
        **special,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
    }
    sizes = {
        "gpt2": (
            transformers.GPT2Config,
            transformers.GPT2LMHeadModel,
            {**special, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 4},
        ),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, llama_like),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, llama_like),
        "gemma": (transformers.GemmaConfig, transformers.GemmaForCausalLM, {**llama_like, "head_dim": 8}),
        "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {**llama_like, "sliding_window": 5}),
        "opt": (
            transformers.OPTConfig,
            transformers.OPTForCausalLM,
            {
                **special,
                "hidden_size": 32,
                "ffn_dim": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": CONTEXT,
                "word_embed_proj_dim": 32,
            },
        ),
        "bloom": (
            transformers.BloomConfig,
            transformers.BloomForCausalLM,
            {**special, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        ),
        "mamba": (
            transformers.MambaConfig,
            transformers.MambaForCausalLM,
            {**special, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        ),
        "rwkv": (
            transformers.RwkvConfig,
            transformers.RwkvForCausalLM,
            {**special, "hidden_size": 32, "num_hidden_layers": 2, "context_length": CONTEXT},
        ),
    }
    config_class, model_class, arguments = sizes[kind]
    # Initialisation draws from the global generator: leave it to the tests that watch it.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config_class(**{**arguments, **options}))
    return _sharpened(model, seed, spread)


@pytest.fixture(scope="session")
def build_model():
    """build_model(kind, seed=0, spread=0.2, vocabulary=80, **config options) -> a random causal LM in evaluation mode."""
    return _build_model


@pytest.fixture(scope="session")
def gpt2(build_model):
    return build_model("gpt2")


def _build_tokenizer(padding_side="left", pad=True):
    words = {"<pad>": PAD, "<eos>": EOS, "<unk>": UNK, "good": 3, "bad": 4}
    words.update({f"w{index:02d}": index for index in range(5, VOCABULARY)})
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def build_tokenizer():
    """build_tokenizer(padding_side="left", pad=True) -> 80 words, separated by spaces."""
    return _build_tokenizer


@pytest.fixture(scope="session")
def tokenizer(build_tokenizer):
    return build_tokenizer()


@pytest.fixture(scope="session")
def byte_tokenizer():
    """A token a byte, 0..255 as in UTF-8 order of the alphabet, then <eos> and <pad>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    vocabulary.update({"<eos>": 256, "<pad>": 257})
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="session")
def make_pool():
    """make_pool(scores [P, N], **columns) -> Candidates in which every column names its (prompt, candidate)."""

    def make(scores=None, prompts=2, candidates=3, width=4, **columns):
        if scores is not None:
            scores = np.asarray(scores, dtype=np.float64)
            prompts, candidates = scores.shape
        p, c = np.meshgrid(np.arange(prompts), np.arange(candidates), indexing="ij")
        lengths = (p + c) % width + 1
        texts = np.empty((prompts, candidates), dtype=object)
        for row in range(prompts):
            for column in range(candidates):
                texts[row, column] = f" response {row}.{column}"
        token_ids = (100 * p + 10 * c)[..., None] + np.arange(width) + 1
        token_ids[np.arange(width) >= lengths[..., None]] = PAD
        defaults = Candidates(
            **{
                "prompts": [f"prompt {row}" for row in range(prompts)],
                "prompt_token_ids": [list(range(5, 6 + row + 1)) for row in range(prompts)],
                "texts": texts,
                "token_ids": token_ids.astype(np.int32),
                "lengths": lengths.astype(np.int32),
                "logprobs": -(p + c / 10 + 1.0),
                "raw_logprobs": -(p + c / 10 + 2.0),
                "scores": {} if scores is None else {"proxy": scores},
            }
        )
        return dataclasses.replace(defaults, **columns)

    return make


@pytest.fixture(scope="session")
def response_logits_unbatched():
    """The oracle for everything batched: one response alone through the model; logits [T, V] its tokens came from."""

    def logits(model, prompt, response):
        ids = torch.tensor([list(prompt) + [int(token) for token in response]])
        with torch.no_grad():
            everything = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float()
        return everything[len(prompt) - 1 : -1]

    return logits
