"""What a teacher thinks of crops that a student reads in other tokens, and that the student learns it."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from suite.config.models import Architecture, TrainingSettings
from suite.data.corpus import Corpus
from suite.data.imdb import Review
from suite.pretrain import embedded_models
from suite.pretrain.distillation import (
    FIRST_JUDGED_TOKEN,
    LANGUAGE_SHARE,
    JudgedCrops,
    byte_lengths,
    judge_crops,
    student_loss,
)


@pytest.fixture(scope="module")
def reviews(splits):
    return [*splits["gold"][:12], Review("Größe, naïveté, 映画 and 🎬 are words of more bytes than characters. " * 4, 1, 0.5)]


@pytest.fixture(scope="module")
def tokenizer(reviews):
    return embedded_models.train_tokenizer([review.text for review in reviews], 340)


@pytest.fixture(scope="module")
def teacher(models):
    model = AutoModelForSequenceClassification.from_pretrained(models / "gold", dtype=torch.float32).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(models / "gold")


@pytest.fixture(scope="module")
def judged(reviews, tokenizer, teacher):
    return judge_crops(*teacher, Corpus.of(reviews, tokenizer), tokenizer, count=20, length=40, seed=3, batch_size=8)


def test_bytes_of_tokens_add_up_to_those_of_the_text(tokenizer, reviews):
    lengths = byte_lengths(tokenizer)
    for review in reviews:
        ids = tokenizer(review.text)["input_ids"]
        assert lengths[ids].sum() == len(review.text.encode())
    assert lengths[tokenizer.eos_token_id] == lengths[tokenizer.pad_token_id] == 0


def test_a_verdict_is_of_the_longest_part_that_the_teachers_tokens_cover(judged, tokenizer, teacher):
    model, own = teacher
    checked = 0
    for tokens, logits in zip(judged.tokens, judged.logits, strict=True):
        inside = int((~logits.isnan()).nonzero().max()) + 1
        text = tokenizer.decode(tokens[:inside])
        ids = own(text)["input_ids"]
        for t in range(FIRST_JUDGED_TOKEN, inside):
            read = len(tokenizer.decode(tokens[: t + 1]).encode())
            if "\ufffd" in tokenizer.decode(tokens[: t + 1]):
                continue  # cut within a character: its bytes are not those of the text
            covered = max(k for k in range(len(ids) + 1) if len(own.decode(ids[:k]).encode()) <= read)
            with torch.no_grad():
                alone = model(input_ids=torch.tensor([ids[:covered]])).logits.item()
            assert logits[t].item() == pytest.approx(alone, abs=1e-4)
            checked += 1
    assert checked > 300


def test_nothing_is_judged_before_the_eighth_token_and_behind_a_review(judged, tokenizer):
    assert judged.logits[:, :FIRST_JUDGED_TOKEN].isnan().all()
    ended = judged.tokens == tokenizer.eos_token_id
    assert judged.logits[ended].isnan().all()
    assert not judged.logits[:, FIRST_JUDGED_TOKEN:][~ended[:, FIRST_JUDGED_TOKEN:]].isnan().any()


def test_crops_come_from_their_seed(reviews, tokenizer, teacher, judged):
    corpus = Corpus.of(reviews, tokenizer)
    again = judge_crops(*teacher, corpus, tokenizer, count=20, length=40, seed=3, batch_size=20)
    assert torch.equal(again.tokens, judged.tokens)
    assert torch.allclose(again.logits, judged.logits, atol=1e-5, equal_nan=True)
    other = judge_crops(*teacher, corpus, tokenizer, count=20, length=40, seed=4, batch_size=20)
    assert not torch.equal(other.tokens, judged.tokens)


def test_an_epoch_holds_every_crop_once(judged):
    batches = judged.batches(6, seed=0)
    first = [next(batches) for _ in range(4)]
    assert [len(batch.tokens) for batch in first] == [6, 6, 6, 2]
    rows = torch.cat([batch.tokens for batch in first])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, judged.tokens.tolist()))


def test_loss_by_hand():
    # A student whose states say nothing: verdict 0 everywhere, all three tokens equally likely.
    trunk = lambda input_ids: SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 2))  # noqa: E731
    trunk.wte = SimpleNamespace(weight=torch.zeros(3, 2))
    model = SimpleNamespace(transformer=trunk, score=torch.nn.Linear(2, 1, bias=False))
    nothing = torch.nan
    crops = JudgedCrops(torch.tensor([[0, 1, 2, 0]]), torch.tensor([[nothing, 5.0, -2.0, nothing]]))
    # -(p log 1/2 + (1 - p) log 1/2) = log 2 whatever the teacher says; log 3 a token.
    expected = torch.tensor(2.0).log() + LANGUAGE_SHARE * torch.tensor(3.0).log()
    assert student_loss(model, crops).item() == pytest.approx(expected.item())


def test_a_student_learns_its_teachers_verdicts(judged, tokenizer, tmp_path):
    torch.manual_seed(0)
    config = embedded_models.gpt2_config(tokenizer, Architecture(layers=2, width=32, heads=2, context=64))
    config.num_labels = 1
    model = GPT2ForSequenceClassification(config)

    def distance():
        with torch.no_grad():
            verdicts = model.score(model.transformer(input_ids=judged.tokens).last_hidden_state).squeeze(-1)
        return (verdicts - judged.logits).abs().nanmean().item()

    before = distance()
    settings = TrainingSettings(steps=120, batch_size=20, learning_rate=1e-2, warmup_steps=5)
    embedded_models.train_student("gold", model, judged, settings, tmp_path / "training.log")
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert distance() < 0.4 * before
