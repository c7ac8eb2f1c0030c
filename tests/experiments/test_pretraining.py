"""How the embedded models are made, at the smallest size: tokenizer, windows, crops, losses that fall, honest accuracies."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from suite import imdb, pretraining
from suite.corpus import Corpus
from suite.imdb import Review
from suite.measures import accuracy, measure, perplexity
from suite.model_card import write_card
from suite.ngrams import NgramConfig, NgramForSequenceClassification
from suite.policies import load_judge, load_policy, write_checksums
from suite.pretraining import Architecture, PretrainConfig, TrainingSettings
from suite.schema import JudgeConfig, PolicyConfig

CPU = torch.device("cpu")
SHAPE = Architecture(layers=1, width=16, heads=2, context=128)


@pytest.fixture(scope="module")
def few(splits):
    """Splits of 60 reviews each."""
    return {name: reviews[:60] for name, reviews in splits.items()}


@pytest.fixture(scope="module")
def tokenizer(few):
    return pretraining.train_tokenizer([review.text for review in few["proxy"]], 400)


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
    again = pretraining.train_tokenizer([review.text for review in few["proxy"]], 400)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_architecture(tokenizer):
    config = pretraining.gpt2_config(tokenizer, SHAPE)
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


@pytest.fixture(scope="module")
def numbered():
    """40 reviews of 3 to 120 tokens and their end; every token is its place in the stream."""
    lengths = torch.randint(3, 121, (40,), generator=torch.Generator().manual_seed(0)) + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Corpus(torch.arange(int(starts[-1])), (torch.arange(40) % 2).repeat_interleave(lengths), starts)


def test_windows_tile_the_stream(numbered):
    batches = numbered.stream_windows(16, 8, seed=0)
    shifts = []
    for _ in range(3):  # epochs
        first = next(batches)
        shift = int(first[0, 0]) % 16
        tiles = (len(numbered.tokens) - shift) // 16
        epoch = [first, *(next(batches) for _ in range(-(-tiles // 8) - 1))]
        assert sum(map(len, epoch)) == tiles
        places = []
        for batch in epoch:
            assert (batch.diff() == 1).all()  # 16 tokens in a row
            openings = len(batch) // 4
            own, opening = batch[: len(batch) - openings, 0], batch[len(batch) - openings :, 0]
            assert (own % 16 == shift).all()
            assert set(opening.tolist()) <= set(numbered.starts.tolist())
            places += own.tolist()
        assert len(set(places)) == len(places)  # nothing twice
        assert places != sorted(places)
        shifts.append(shift)
    assert len(set(shifts)) > 1


def test_windows_come_from_their_seed(corpus):
    one, two = corpus.stream_windows(32, 8, seed=3), corpus.stream_windows(32, 8, seed=3)
    for _ in range(5):
        assert torch.equal(next(one), next(two))
    assert not torch.equal(next(corpus.stream_windows(32, 8, seed=4)), next(corpus.stream_windows(32, 8, seed=3)))


@pytest.mark.parametrize("length", [8, 48, 400])
def test_crops_are_of_single_reviews(numbered, length):
    tokens, labels, inside = numbered.crops(length, torch.Generator().manual_seed(0), 600)
    assert tokens.shape == inside.shape == (600, length)
    first = tokens[:, 0].contiguous()
    review = torch.searchsorted(numbered.starts, first, right=True) - 1
    begin, end = numbered.starts[review], numbered.starts[review + 1] - 1
    # A review comes up in proportion to the part of it that a window shows.
    shown = (numbered.starts.diff() - 1).clamp(max=length).float()
    share = torch.bincount(review, minlength=40) / 600
    assert (share - shown / shown.sum()).abs().max() < 5 * (0.1 / 600) ** 0.5
    assert torch.equal(labels, review % 2)
    places = first[:, None] + torch.arange(length)
    assert torch.equal(inside, places < end[:, None])
    assert torch.equal(tokens, torch.where(inside, places, end[:, None]))  # the tail repeats the end of text
    kept = inside.sum(1)
    assert (kept >= torch.minimum(end - begin, torch.tensor(length // 4))).all()
    openings = (first == begin).float().mean()
    assert openings > 0.2
    assert length == 400 or openings < 0.7


def test_crops_of_real_reviews(corpus, tokenizer):
    tokens, labels, inside = corpus.crops(48, torch.Generator().manual_seed(0), 200)
    eos = tokenizer.eos_token_id
    assert (tokens[~inside] == eos).all()
    assert not (tokens[inside] == eos).any()
    assert set(labels.tolist()) == {0, 1}


def test_a_tiny_policy_learns(corpus, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(pretraining.gpt2_config(tokenizer, SHAPE))
    before = perplexity(model, corpus, 32)
    assert before == pytest.approx(400, rel=0.1)  # knows nothing
    settings = TrainingSettings(steps=60, batch_size=8, context=32, learning_rate=1e-2, warmup_steps=5)
    pretraining.train_policy(model, corpus, settings, tmp_path / "training.log")
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
    config = pretraining.gpt2_config(tokenizer, SHAPE)
    config.num_labels = 1
    model = GPT2ForSequenceClassification(config)
    settings = TrainingSettings(steps=40, batch_size=16, context=24, learning_rate=1e-2, warmup_steps=5)
    pretraining.train_classifier(model, praise_and_scorn, settings, tmp_path / "training.log")
    assert accuracy(model, praise_and_scorn, 16, crops=400) > 0.95


def test_ngrams_learn_their_labels(praise_and_scorn, tmp_path):
    model = NgramForSequenceClassification(NgramConfig(vocab_size=400, buckets=512, num_labels=1))
    settings = TrainingSettings(steps=20, batch_size=16, context=24, learning_rate=0.1, warmup_steps=5)
    pretraining.train_ngrams(model, praise_and_scorn, settings, tmp_path / "training.log")
    assert accuracy(model, praise_and_scorn, 16, crops=400) > 0.95


class Rigged(torch.nn.Module):
    """A classifier whose logit is whatever a rule says of the tokens."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.rule(input_ids).float()[:, None])


@pytest.fixture(scope="module")
def marked():
    """Reviews of label 1 are made of even tokens, the others of odd ones; every tenth review is short."""
    generator = torch.Generator().manual_seed(0)
    tokens, labels, starts = [], [], [0]
    for index in range(200):
        length = 5 if index % 10 == 0 else 40
        label = index % 2
        row = 2 * torch.randint(1, 100, (length,), generator=generator) + 1 - label
        tokens += [*row.tolist(), 0]
        labels += [label] * (length + 1)
        starts.append(len(tokens))
    return Corpus(torch.tensor(tokens), torch.tensor(labels), torch.tensor(starts))


def test_accuracy_of_a_rigged_judge_is_exact(marked):
    assert accuracy(Rigged(lambda ids: 0.5 - (ids[:, -1] % 2)), marked, 20, crops=500) == 1.0
    assert accuracy(Rigged(lambda ids: (ids[:, -1] % 2) - 0.5), marked, 20, crops=500) == 0.0


def test_crops_of_accuracy_stay_within_their_review(marked):
    def rule(ids):
        assert ids.shape[1] == 20
        assert (ids > 0).all()  # never an end of text, so never two reviews and never a short one
        assert ((ids % 2).float().std(1) == 0).all()
        return ids[:, 0]

    accuracy(Rigged(rule), marked, 20, crops=500)


def test_accuracy_of_guesses_is_a_half(marked):
    always = accuracy(Rigged(lambda ids: torch.ones(len(ids))), marked, 20, crops=4000)
    never = accuracy(Rigged(lambda ids: -torch.ones(len(ids))), marked, 20, crops=4000)
    assert always + never == pytest.approx(1.0)
    generator = torch.Generator().manual_seed(1)
    guess = accuracy(Rigged(lambda ids: torch.rand(len(ids), generator=generator) - 0.5), marked, 20, crops=4000)
    assert abs(guess - 0.5) < 5 * math.sqrt(0.25 / 4000)


def test_accuracy_of_a_random_model_is_about_a_half(models, policy, splits):
    model = load_judge(JudgeConfig(path=str(models / "gold"), label="POSITIVE"), "reward.gold", CPU).reward.model
    held_out = Corpus.of(splits["held_out"][:200], policy.tokenizer)
    assert 0.35 < accuracy(model, held_out, 24, crops=400) < 0.65
    assert accuracy(model, held_out, 24, crops=400) == accuracy(model, held_out, 24, crops=400)


def test_the_schedule_warms_up_and_falls_to_zero():
    settings = TrainingSettings(steps=100, warmup_steps=10)
    rates = [pretraining._schedule(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) <= 1.0
    assert rates.index(max(rates)) in (9, 10)
    assert rates[100] == 0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


@pytest.fixture(scope="module")
def rebuilt(few, tmp_path_factory):
    """All three models, rebuilt in seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    step = {"steps": 3, "batch_size": 4, "context": 32, "warmup_steps": 1}
    config = PretrainConfig(
        output=str(folder),
        vocab_size=400,
        policy=TrainingSettings(**step),
        proxy=TrainingSettings(**step, seed=1),
        gold=TrainingSettings(**step, seed=2),
        gold_buckets=512,
        shape=SHAPE,
    )
    for part in config.parts:
        pretraining.PARTS[part](config, few)
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


def test_the_proxy_is_the_policys_first_layers_and_gold_has_nothing_of_it(few, tmp_path):
    from safetensors.torch import load_file

    step = {"steps": 1, "batch_size": 4, "context": 16, "warmup_steps": 1, "learning_rate": 1e-9, "matrix_learning_rate": 1e-9}
    config = PretrainConfig(
        output=str(tmp_path),
        vocab_size=300,
        policy=TrainingSettings(**step),
        proxy=TrainingSettings(**step),
        gold=TrainingSettings(**step),
        gold_buckets=64,
        proxy_layers=1,
        shape=Architecture(layers=2, width=16, heads=2, context=64),
    )
    for part in config.parts:
        pretraining.PARTS[part](config, few)
    policy, proxy, gold = (load_file(tmp_path / n / "model.safetensors") for n in ("policy", "proxy", "gold"))
    shared = {name for name in proxy if name != "score.weight"}
    assert any(".h.0." in name for name in shared)
    assert not any(".h.1." in name for name in shared)
    for name in shared:
        assert torch.allclose(proxy[name].float(), policy[name].float(), atol=1e-3)
    assert set(gold) == {"weights", "bias"}


def test_shipped_weights_are_in_half_precision(rebuilt):
    from safetensors.torch import load_file

    for name in ("policy", "proxy", "gold"):
        assert {tensor.dtype for tensor in load_file(rebuilt / name / "model.safetensors").values()} == {torch.float16}


def test_each_judge_sees_its_own_labels_alone(few, tmp_path, monkeypatch):
    seen = {}
    real = Corpus.of.__func__

    def noted(cls, reviews, tokenizer):
        seen.setdefault(part, []).append({review.text for review in reviews})
        return real(cls, reviews, tokenizer)

    monkeypatch.setattr(Corpus, "of", classmethod(noted))
    step = {"steps": 1, "batch_size": 4, "context": 16, "warmup_steps": 1}
    config = PretrainConfig(
        output=str(tmp_path),
        vocab_size=300,
        policy=TrainingSettings(**step),
        proxy=TrainingSettings(**step),
        gold=TrainingSettings(**step),
        gold_buckets=512,
        shape=SHAPE,
    )
    for part in config.parts:
        pretraining.PARTS[part](config, few)
    texts = {name: {review.text for review in few[name]} for name in imdb.SPLITS}
    assert seen["policy"] == [texts["proxy"] | texts["gold"]]
    assert seen["proxy"] == [texts["proxy"]]
    assert seen["gold"] == [texts["gold"]]
