"""The snippets of TRL's page on best-of-n, with only the import changed, on tiny models."""

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig, pipeline

from bon import BestOfNSampler, LengthSampler


@pytest.fixture(params=["left", "right"])
def page_tokenizer(build_tokenizer, request):
    tokenizer = build_tokenizer(request.param, pad=False)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture
def queries_to_scores(page_tokenizer):
    config = transformers.GPT2Config(
        vocab_size=80,
        n_positions=64,
        n_embd=32,
        n_layer=1,
        n_head=2,
        pad_token_id=1,
        num_labels=2,
        bos_token_id=1,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = transformers.GPT2ForSequenceClassification(config).eval()
    reward_pipe = pipeline("text-classification", model=classifier, tokenizer=page_tokenizer, device="cpu")

    def queries_to_scores(list_of_strings):
        return [output["score"] for output in reward_pipe(list_of_strings)]

    return queries_to_scores


@pytest.fixture
def query_tensors(page_tokenizer):
    return [torch.tensor(page_tokenizer.encode(text)) for text in ("w10 w11 good", "w13", "bad w14 w15 w16")]


@pytest.fixture(params=["gpt2", "llama", "qwen2", "opt", "gemma", "mamba"])
def model(build_model, request):
    return build_model(request.param)


def test_quick_start_and_generate(model, page_tokenizer, queries_to_scores, query_tensors):
    best_of_n = BestOfNSampler(model, page_tokenizer, queries_to_scores, length_sampler=LengthSampler(4, 8))
    gen_kwargs = {
        "min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True, "pad_token_id": page_tokenizer.eos_token_id
    }  # fmt: skip
    for device in ("cpu", torch.device("cpu")):
        best = best_of_n.generate(query_tensors, device=device, **gen_kwargs)
        assert [len(row) for row in best] == [1, 1, 1]
        for row, query in zip(best, query_tensors, strict=True):
            assert row[0].startswith(page_tokenizer.decode(query))
            assert len(row[0].split()) <= len(query) + 7


def test_sample_size_n_candidates_and_configuration_at_construction(model, page_tokenizer, queries_to_scores, query_tensors):
    config = GenerationConfig(min_length=-1, top_k=0.0, top_p=1.0, do_sample=True, pad_token_id=page_tokenizer.eos_token_id)
    best_of_n = BestOfNSampler(
        model, page_tokenizer, queries_to_scores, length_sampler=LengthSampler(4, 8, seed=1), sample_size=8, n_candidates=2,
        seed=3, generation_config=config,
    )  # fmt: skip
    best = best_of_n.generate(query_tensors)
    scores = [queries_to_scores(row) for row in best]
    assert [len(row) for row in best] == [2, 2, 2]
    assert all(first >= second for first, second in scores)
    again = BestOfNSampler(
        model, page_tokenizer, queries_to_scores, LengthSampler(4, 8, seed=1), 8, 3, 2, config
    )  # the same by position
    pool = again.sample(query_tensors)
    np.testing.assert_allclose([row[0] for row in scores], pool.scores["proxy"].max(1), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_queries_may_be_on_another_device(build_model, page_tokenizer, queries_to_scores, query_tensors):
    model = build_model("gpt2")
    sampler = BestOfNSampler(model, page_tokenizer, queries_to_scores, LengthSampler(4, 8))
    assert len(sampler.generate([query.cuda() for query in query_tensors])) == 3
    assert len(sampler.generate(query_tensors, device="cuda")) == 3
    assert model.device.type == "cuda"
