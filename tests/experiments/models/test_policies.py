"""Models from a folder: checked by hash before they are loaded, and never able to pad in the middle of a response."""

import hashlib
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from bon import generate_candidates
from suite.config.run import JudgeConfig, PolicyConfig
from suite.models.policies import check_files, load_checkpoint, load_policy, never_padding
from suite.models.rewards import load_judge
from suite.runtime.device import choose_device
from suite.runtime.errors import UserError
from suite.runtime.hashing import write_checksums

CPU = torch.device("cpu")


@pytest.fixture
def copied(models, tmp_path):
    """The tiny models in a folder of this test, with SHA256SUMS beside them."""
    for name in ("policy", "proxy", "gold"):
        shutil.copytree(models / name, tmp_path / "tiny" / name)
    write_checksums(tmp_path / "tiny")
    return tmp_path / "tiny"


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_policy_as_the_suite_expects_it(policy, models):
    weights = models / "policy" / "model.safetensors"
    assert policy.digest == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert policy.model.dtype == torch.float32
    assert not policy.model.training
    assert policy.folder == str(models / "policy")
    tokenizer = policy.tokenizer
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


def test_parameters_are_counted_once(policy, judges):
    vocabulary, context, width, layers = len(policy.tokenizer), 256, 32, 2
    block = 12 * width**2 + 13 * width  # attention and MLP matrices; their biases and two norms
    trunk = (vocabulary + context) * width + layers * block + 2 * width
    assert policy.parameters == trunk
    assert judges["proxy"].parameters == trunk + width


def test_half_precision_files_are_computed_in_single(models, tmp_path):
    GPT2LMHeadModel.from_pretrained(models / "policy").half().save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(models / "policy").save_pretrained(tmp_path / "half")
    loaded = load_policy(PolicyConfig(name="half", path=str(tmp_path / "half")), CPU)
    assert loaded.model.dtype == torch.float32


def test_padding_is_never_drawn(policy, models, prompts):
    pad = policy.tokenizer.pad_token_id
    logits = policy.model(input_ids=torch.tensor([prompts[0]])).logits
    assert (logits[..., pad] == -1e4).all()
    # A model that wants nothing else but to pad.
    model = GPT2LMHeadModel.from_pretrained(models / "policy").eval()
    head = torch.nn.Linear(32, len(policy.tokenizer))
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.zero_()[pad] = 20.0
    model.set_output_embeddings(head)
    drawn = generate_candidates(model, policy.tokenizer, prompts[:2], 4, max_new_tokens=6)
    assert (drawn.token_ids == pad).any()
    never_padding(model, policy.tokenizer)
    drawn = generate_candidates(model, policy.tokenizer, prompts[:2], 4, max_new_tokens=6)
    inside = np.arange(drawn.token_ids.shape[2]) < drawn.lengths[..., None]
    assert not (drawn.token_ids[inside] == pad).any()


def test_a_model_that_ends_with_its_padding_keeps_it(policy, models):
    model = GPT2LMHeadModel.from_pretrained(models / "policy").eval()
    before = model(input_ids=torch.tensor([[5, 6]])).logits
    never_padding(model, SimpleNamespace(pad_token_id=0, eos_token_id=0))
    never_padding(model, SimpleNamespace(pad_token_id=None, eos_token_id=0))
    assert torch.equal(model(input_ids=torch.tensor([[5, 6]])).logits, before)


def test_checkpoint_of_a_tuned_policy(policy, models, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(models / "policy")
    with torch.no_grad():
        model.transformer.ln_f.bias.add_(0.1)
    model.save_pretrained(tmp_path / "checkpoint-000010")
    tuned = load_checkpoint(policy, tmp_path / "checkpoint-000010")
    assert tuned.name == "checkpoint-000010"
    assert tuned.digest != policy.digest
    assert tuned.tokenizer is policy.tokenizer
    assert not tuned.model.training
    assert (tuned.model(input_ids=torch.tensor([[5, 6]])).logits[..., policy.tokenizer.pad_token_id] == -1e4).all()


def test_judge_gives_the_logit_of_its_label(judges, models):
    text = "A film I liked."
    judge = judges["proxy"]
    ids = torch.tensor([AutoTokenizer.from_pretrained(models / "proxy")(text)["input_ids"]])
    with torch.no_grad():
        logit = judge.reward.model(input_ids=ids).logits.item()
    assert judge.reward([text]) == pytest.approx([logit], abs=1e-6)
    assert judge.digest != judges["gold"].digest
    assert judge.reward([text]) != judges["gold"].reward([text])


def test_label_that_is_not_there(models):
    config = JudgeConfig(path=str(models / "proxy"), label="NEGATIVE")
    with pytest.raises(UserError, match=r"^reward\.proxy\.label=NEGATIVE.*'POSITIVE'"):
        load_judge(config, "reward.proxy", CPU)


def test_checksums_are_those_of_sha256sum(copied):
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=copied, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"{name}/model.safetensors: OK" for name in ("gold", "policy", "proxy")]


def test_whole_files_pass(copied):
    check_files(str(copied / "policy"), "policy")
    assert load_policy(PolicyConfig(name="tiny", path=str(copied / "policy")), CPU).parameters > 0


@pytest.mark.parametrize("name", ["policy", "proxy", "gold"])
def test_damaged_weights_are_named_with_their_hash(copied, name):
    weights = copied / name / "model.safetensors"
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    damage(weights)
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(UserError) as caught:
        check_files(str(copied / name), "reward.proxy")
    message = str(caught.value)
    for part in ("reward.proxy", str(weights), "damaged", found[:12], expected[:12]):
        assert part in message
    for other in {"policy", "proxy", "gold"} - {name}:
        check_files(str(copied / other), "other")


def test_missing_weights_are_named_with_their_hash(copied):
    weights = copied / "policy" / "model.safetensors"
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights.unlink()
    with pytest.raises(UserError, match=f"policy.*{weights} is missing.*{expected[:12]}"):
        load_policy(PolicyConfig(name="tiny", path=str(copied / "policy")), CPU)


def test_cut_off_weights_without_a_checksum(copied):
    (copied / "SHA256SUMS").unlink()
    weights = copied / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="policy"):
        load_policy(PolicyConfig(name="tiny", path=str(copied / "policy")), CPU)


def test_embedded_folder_that_is_not_there():
    with pytest.raises(UserError, match=r"experiments/models/nowhere/model\.safetensors is missing"):
        load_policy(PolicyConfig(name="tiny", path="experiments/models/nowhere"), CPU)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"device=cuda: this machine has no usable CUDA device.*device=cpu"):
        choose_device("cuda")
    with pytest.raises(UserError, match="device=abacus is not allowed: must be auto, cpu or cuda"):
        choose_device("abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


def test_a_language_model_is_no_reward(models):
    config = JudgeConfig(path=str(models / "policy"), label="LABEL_1")
    with pytest.raises(
        UserError, match=r"^reward\.proxy: cannot load .*is no trained classifier: its files lack score\.weight"
    ):
        load_judge(config, "reward.proxy", CPU)
