"""How the embedded models are made, at the smallest size: tokenizer, windows, crops, losses that fall, honest accuracies."""

import dataclasses
import itertools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from suite.config.models import Architecture, PretrainConfig, TrainingSettings
from suite.config.run import JudgeConfig, PolicyConfig
from suite.data.corpus import Corpus
from suite.data.imdb import Review
from suite.models.policies import load_policy
from suite.models.rewards import load_judge
from suite.pretrain import embedded_models
from suite.pretrain.held_out import accuracy, measure, perplexity
from suite.pretrain.model_card import write_card
from suite.runtime.errors import UserError
from suite.runtime.hashing import write_checksums

CPU = torch.device("cpu")
SHAPE = Architecture(layers=1, width=16, heads=2, context=128)


@pytest.fixture(scope="module")
def few(splits):
    """Splits of 60 reviews each."""
    return {name: reviews[:60] for name, reviews in splits.items()}


@pytest.fixture(scope="module")
def tokenizer(few):
    return embedded_models.train_tokenizer([review.text for review in few["proxy"]], 400)


@pytest.fixture(scope="module")
def corpus(few, tokenizer):
    return Corpus.of(few["gold"], tokenizer)


def test_tokenizer(tokenizer, splits):
    assert len(tokenizer) == 400
    assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"
    for review in splits["evaluation"][:50]:
        ids = tokenizer(review.text)["input_ids"]
        assert tokenizer.decode(ids) == review.text
        assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(ids)
    assert tokenizer.decode(tokenizer("naïve 映画 🎬")["input_ids"]) == "naïve 映画 🎬"


def test_tokenizer_is_the_same_again(tokenizer, few):
    again = embedded_models.train_tokenizer([review.text for review in few["proxy"]], 400)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_architecture(tokenizer):
    config = embedded_models.gpt2_config(tokenizer, SHAPE)
    assert (config.n_layer, config.n_embd, config.n_head, config.n_positions) == (1, 16, 2, 128)
    assert config.vocab_size == 400
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.eos_token_id == tokenizer.eos_token_id


def test_corpus_is_every_review_ended(corpus, few, tokenizer):
    assert corpus.starts[0] == 0
    assert corpus.starts[-1] == len(corpus.tokens) == len(corpus.labels)
    assert len(corpus.starts) == 61
    for review, start, stop in zip(few["gold"], corpus.starts[:-1], corpus.starts[1:], strict=True):
        assert corpus.tokens[start : stop - 1].tolist() == tokenizer(review.text)["input_ids"]
        assert corpus.tokens[stop - 1] == tokenizer.eos_token_id
        assert (corpus.labels[start:stop] == review.label).all()


def test_windows_come_from_their_seed(corpus):
    one, two = corpus.stream_windows(32, 8, seed=3), corpus.stream_windows(32, 8, seed=3)
    for _ in range(5):
        assert torch.equal(next(one), next(two))
    assert not torch.equal(next(corpus.stream_windows(32, 8, seed=4)), next(corpus.stream_windows(32, 8, seed=3)))


def test_crops_of_real_reviews(corpus, tokenizer):
    tokens, labels, inside = corpus.crops(48, torch.Generator().manual_seed(0), 200)
    eos = tokenizer.eos_token_id
    assert (tokens[~inside] == eos).all()
    assert not (tokens[inside] == eos).any()
    assert set(labels.tolist()) == {0, 1}


def test_a_tiny_policy_learns(corpus, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(embedded_models.gpt2_config(tokenizer, SHAPE))
    before = perplexity(model, corpus, 32)
    assert before == pytest.approx(400, rel=0.1)  # knows nothing
    settings = TrainingSettings(steps=60, batch_size=8, context=32, learning_rate=1e-2, warmup_steps=5)
    embedded_models.train_policy(model, corpus, settings, tmp_path / "training.log")
    assert perplexity(model, corpus, 32) < 0.6 * before
    assert not model.training
    lines = (tmp_path / "training.log").read_text().splitlines()
    assert [line.split()[2] for line in lines] == ["50", "60"]


def test_perplexity_by_hand(corpus, tokenizer):
    # A model that gives every token the same probability.
    uniform = lambda input_ids: SimpleNamespace(logits=torch.zeros(*input_ids.shape, 400))  # noqa: E731
    assert perplexity(uniform, corpus, 32) == pytest.approx(400)


@pytest.fixture(scope="module")
def praise_and_scorn(tokenizer):
    reviews = [
        Review((" great" if label else " awful") * 40 + f" {index}", label, index / 64)
        for index in range(64)
        for label in [index % 2]
    ]
    return Corpus.of(reviews, tokenizer)


def test_a_tiny_transformer_learns_its_labels(praise_and_scorn, tokenizer, tmp_path):
    torch.manual_seed(0)
    config = embedded_models.gpt2_config(tokenizer, SHAPE)
    config.num_labels = 1
    model = GPT2ForSequenceClassification(config)
    settings = TrainingSettings(steps=40, batch_size=16, context=24, learning_rate=1e-2, warmup_steps=5)
    embedded_models.train_classifier(model, praise_and_scorn, settings, tmp_path / "training.log")
    assert accuracy(model, praise_and_scorn, 16, crops=400) > 0.95


def test_accuracy_of_a_random_model_is_about_a_half(models, policy, splits):
    model = load_judge(JudgeConfig(path=str(models / "gold"), label="POSITIVE"), "reward.gold", CPU).reward.model
    held_out = Corpus.of(splits["held_out"][:200], policy.tokenizer)
    assert 0.35 < accuracy(model, held_out, 24, crops=400) < 0.65
    assert accuracy(model, held_out, 24, crops=400) == accuracy(model, held_out, 24, crops=400)


def test_the_schedule_warms_up_and_falls_to_zero():
    settings = TrainingSettings(steps=100, warmup_steps=10)
    rates = [embedded_models._schedule(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) <= 1.0
    assert rates.index(max(rates)) in (9, 10)
    assert rates[100] == 0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.fixture(scope="module")
def teachers(models, tmp_path_factory):
    """Random classifiers with a tokenizer of their own, beside the facts of a training."""
    folder = tmp_path_factory.mktemp("teachers")
    for name in ("proxy", "gold"):
        shutil.copytree(models / name, folder / name)
        facts = {"settings": {"part": name, "steps": 5}, "before": {"accuracy": 0.5}, "after": {"accuracy": 0.75}}
        (folder / name / "training.json").write_text(json.dumps(facts))
    return folder


def small(folder, teachers, step):
    """A recipe in which every training is of these few settings."""
    trainings = {name: TrainingSettings(**step) for name in ("policy", "proxy", "gold")}
    wide = Architecture(layers=1, width=24, heads=2, context=128)
    sizes = {"vocab_size": 400, "crops": 24, "shape": SHAPE, "proxy_shape": wide}
    return PretrainConfig(output=str(folder), teachers=str(teachers), device="cpu", **sizes, **trainings)


@pytest.fixture(scope="module")
def rebuilt(few, teachers, tmp_path_factory):
    """All three models, rebuilt in seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    config = small(folder, teachers, {"steps": 3, "batch_size": 4, "context": 32, "warmup_steps": 1})
    for part in config.parts:
        embedded_models.PARTS[part](config, few)
    write_checksums(folder)
    return folder


def test_rebuilt_models_are_what_a_run_loads(rebuilt):
    policy = load_policy(PolicyConfig(name="tiny", path=str(rebuilt / "policy")), CPU)
    assert policy.model.dtype == torch.float32
    assert policy.tokenizer.padding_side == "left"
    assert policy.tokenizer.pad_token_id != policy.tokenizer.eos_token_id
    judges = [load_judge(JudgeConfig(path=str(rebuilt / n), label="POSITIVE"), n, CPU) for n in ("proxy", "gold")]
    rewards = [judge.reward(["A fine film.", "An awful film."]) for judge in judges]
    assert rewards[0] != rewards[1]
    for name in ("policy", "proxy", "gold"):
        assert (rebuilt / name / "training.log").read_text().startswith(f"{name} step 3 loss")


def test_measures_and_card(rebuilt, few):
    found = measure(rebuilt, few["held_out"])
    assert found["policy perplexity"] == pytest.approx(400, rel=0.3)  # three steps of training
    assert {name for name in found if "accuracy" in name} == {
        f"{judge} accuracy, {length} tokens" for judge in ("proxy", "gold") for length in (24, 128)
    }
    assert all(0 <= value <= 1 for name, value in found.items() if "accuracy" in name)
    config = PretrainConfig(output=str(rebuilt), vocab_size=400, shape=SHAPE)
    write_card(config, found, (rebuilt / "SHA256SUMS").read_text())
    card = (rebuilt / "README.md").read_text()
    assert "python experiments/pretrain.py" in card
    assert f"| policy perplexity | {found['policy perplexity']:.4g} |" in card
    assert "gold/model.safetensors" in card
    assert "proxy step 3 loss" in card
    assert "| gold | {'part': 'gold', 'steps': 5} | {'accuracy': 0.5}, {'accuracy': 0.75} |" in card


def test_gold_is_the_policys_trunk_and_the_proxy_has_nothing_of_it(few, teachers, tmp_path):
    step = {"steps": 1, "batch_size": 4, "context": 16, "warmup_steps": 1, "learning_rate": 1e-9, "matrix_learning_rate": 1e-9}
    config = small(tmp_path, teachers, step)
    for part in config.parts:
        embedded_models.PARTS[part](config, few)
    policy, proxy, gold = (load_file(tmp_path / n / "model.safetensors") for n in ("policy", "proxy", "gold"))
    shared = {name for name in gold if name != "score.weight"}
    assert shared == set(policy)
    for name in shared:
        assert torch.allclose(gold[name].float(), policy[name].float(), atol=1e-3)
    assert proxy["transformer.wte.weight"].shape == (400, 24)


def test_a_labelled_proxy_is_the_policys_first_layers(few, teachers, tmp_path):
    step = {"steps": 1, "batch_size": 4, "context": 16, "warmup_steps": 1, "learning_rate": 1e-9, "matrix_learning_rate": 1e-9}
    config = small(tmp_path, teachers, step)
    config.shape = Architecture(layers=2, width=16, heads=2, context=64)
    embedded_models.PARTS["policy"](config, few)
    embedded_models.make_labelled_proxy(config, few["proxy"][:8], layers=1)
    policy, proxy = (load_file(tmp_path / n / "model.safetensors") for n in ("policy", "proxy"))
    shared = {name for name in proxy if name != "score.weight"}
    assert any(".h.0." in name for name in shared)
    assert not any(".h.1." in name for name in shared)
    for name in shared:
        assert torch.allclose(proxy[name].float(), policy[name].float(), atol=1e-3)


def test_a_missing_teacher_is_named_with_the_command_that_makes_it(few, tmp_path):
    config = small(tmp_path, tmp_path / "nowhere", {"steps": 1, "batch_size": 4, "context": 16, "warmup_steps": 1})
    embedded_models.PARTS["policy"](config, few)
    with pytest.raises(UserError, match=r"teachers=.*nowhere.*experiments/finetune.py part=gold"):
        embedded_models.PARTS["gold"](config, few)


def test_shipped_weights_are_in_half_precision(rebuilt):
    for name in ("policy", "proxy", "gold"):
        assert {tensor.dtype for tensor in load_file(rebuilt / name / "model.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize("judge", ["proxy", "gold"])
def test_each_judge_reads_text_and_its_teacher_alone(few, teachers, tmp_path, judge):
    config = small(tmp_path, teachers, {"steps": 2, "batch_size": 4, "context": 16, "warmup_steps": 1})
    embedded_models.PARTS["policy"](config, few)

    def weights(splits, config=config):
        embedded_models.PARTS[judge](config, splits)
        return load_file(tmp_path / judge / "model.safetensors")

    turned = {n: [dataclasses.replace(review, label=1 - review.label) for review in few[n]] for n in few}
    other = {"proxy": "gold", "gold": "proxy"}[judge]
    swapped = tmp_path / "swapped"
    shutil.copytree(teachers / other, swapped / judge)
    usual, no_labels, by_the_other = (
        weights(few),
        weights(turned),
        weights(few, dataclasses.replace(config, teachers=str(swapped))),
    )
    assert all(torch.equal(usual[name], no_labels[name]) for name in usual)
    assert not all(torch.equal(usual[name], by_the_other[name]) for name in usual)
