"""Accuracies of judges that follow a rule."""

import math
from types import SimpleNamespace

import pytest
import torch

from suite.data.corpus import Corpus
from suite.pretrain.held_out import accuracy


class Rigged(torch.nn.Module):
    """A classifier whose logit is whatever a rule says of the tokens."""

    device = torch.device("cpu")

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
