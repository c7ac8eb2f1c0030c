"""The token loop leaves the device alone: what would make a GPU wait for the host is counted, operation by operation."""

import pytest
import torch
from host_waits import Waits

from bon import generate_candidates
from bon.generation import token_loop

STEPS = 24


def counted(model, tokenizer, prompts, steps):
    with Waits() as waits:
        drawn = generate_candidates(model, tokenizer, prompts, 4, max_new_tokens=steps, seed=3, eos_token_id=None)
    return drawn, waits.seen.total()


def test_what_is_counted():
    with Waits() as waits:
        tensor = torch.ones(3)
        assert tensor.sum() > 0
        tensor[tensor > 0].tolist()
        torch.nonzero(tensor)
    assert waits.seen == {"_local_scalar_dense": 1, "index": 1, "nonzero": 1}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("prompts", [[[5, 6, 7], [8, 9, 10]], [[5], [6, 7, 8, 9]]], ids=["of one length", "padded"])
def test_the_loop_waits_for_nothing_but_its_looks(build_model, tokenizer, monkeypatch, kind, prompts):
    model = build_model(kind)
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    counted(model, tokenizer, prompts, 1)  # the first call finds out which rows may share a batch
    _, before = counted(model, tokenizer, prompts, 1)
    every, often = counted(model, tokenizer, prompts, STEPS)
    monkeypatch.setattr(token_loop, "_looks_every", lambda device: 8)
    rarely, seldom = counted(model, tokenizer, prompts, STEPS)
    assert often - seldom == (STEPS - 1) - (STEPS - 1) // 8
    if len({len(prompt) for prompt in prompts}) == 1:
        # Behind padding transformers makes a mask in every step, and looks whether it may leave it out.
        assert often == before + STEPS - 1
    assert (rarely.token_ids == every.token_ids).all()


def test_looking_rarely_draws_the_same(build_model, tokenizer, monkeypatch):
    model = build_model("llama", spread=0.4)
    draw = lambda: generate_candidates(model, tokenizer, [[5, 6], [7], [8, 9, 10]], 6, max_new_tokens=21, seed=1)  # noqa: E731
    often = draw()
    monkeypatch.setattr(token_loop, "_looks_every", lambda device: 8)
    rarely = draw()
    assert often.lengths.min() < 21
    assert (often.token_ids == rarely.token_ids).all()
    assert (often.lengths == rarely.lengths).all()
    assert (often.logprobs == rarely.logprobs).all()


def test_where_it_looks_rarely():
    assert token_loop._looks_every(torch.device("cpu")) == 1
    assert token_loop._looks_every(torch.device("cuda")) > 1
