"""The n-gram classifier against a dictionary that counts by hand."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bon import ClassifierReward
from suite.ngrams import NgramConfig, NgramForSequenceClassification


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = NgramForSequenceClassification(
        NgramConfig(vocab_size=7, buckets=1 << 12, num_labels=1, id2label={0: "POSITIVE"}, pad_token_id=0)
    )
    torch.nn.init.normal_(made.weights)
    torch.nn.init.normal_(made.bias)
    return made.eval()


def by_hand(model, ids):
    """Every different n-gram once, whose weight is found without knowing how it is hashed."""
    grams = {tuple(ids[i : i + order]) for order in (1, 2, 3) for i in range(len(ids) - order + 1)}
    return float(model.bias) + sum(weight(model, gram) for gram in grams) / math.sqrt(len(grams))


def weight(model, gram):
    """From the logit of the n-gram as a whole text: take away everything shorter that it holds."""
    parts = {tuple(gram[i : i + order]) for order in (1, 2, 3) for i in range(len(gram) - order + 1)}
    logit = float(model(input_ids=torch.tensor([gram])).logits)
    whole = (logit - float(model.bias)) * math.sqrt(len(parts))
    return whole - sum(weight(model, part) for part in parts if part != gram)


@pytest.mark.parametrize("ids", [[3], [3, 3, 3, 3], [1, 2, 1, 2, 1, 2], [5, 4, 3, 2, 1, 6, 5, 4, 3]])
def test_a_logit_is_the_sum_over_different_ngrams(model, ids):
    with torch.inference_mode():
        assert float(model(input_ids=torch.tensor([ids])).logits) == pytest.approx(by_hand(model, ids), abs=1e-4)


def test_every_prefix_is_judged_as_if_it_were_alone(model):
    ids = torch.randint(1, 7, (5, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        prefixes = model.prefix_logits(ids)
        for length in range(1, 21):
            assert torch.allclose(model(input_ids=ids[:, :length]).logits[:, 0], prefixes[:, length - 1], atol=1e-5)


def test_padding_on_the_right_is_not_read(model):
    ids = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
        assert torch.allclose(logits[0], model(input_ids=ids[:1, :3]).logits[0])
        assert torch.allclose(logits[1], model(input_ids=ids[1:]).logits[0])


def test_transformers_loads_what_it_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert isinstance(again, NgramForSequenceClassification)
    assert torch.equal(again.weights, model.weights)
    assert torch.equal(again.bias, model.bias)


def test_it_is_a_reward(model, policy):
    model = NgramForSequenceClassification(
        NgramConfig(vocab_size=500, buckets=64, context=8, num_labels=1, id2label={0: "POSITIVE"}, pad_token_id=1)
    )
    torch.nn.init.normal_(model.weights)
    reward = ClassifierReward(model, policy.tokenizer, "POSITIVE")
    texts = ["A fine film.", "Awful", "A fine film. " * 20]
    together = reward(texts)
    assert together == pytest.approx([reward([text])[0] for text in texts], abs=1e-5)
    assert together[0] != together[1]
