"""Batches: which prompts share one, and how much fits into it."""

import pytest
import torch
from pool_checks import assert_same

import bon.generation.batching
import bon.generation.generate
from bon import generate_candidates


def test_batches_of_a_gpu_have_a_most_of_rows_and_put_nearly_equal_lengths_together():
    prompts, limits = [[5] * length for length in (1, 2, 3, 16, 17, 18)], [4] * 6
    pack = lambda **more: [  # noqa: E731
        batch.positions for batch in bon.generation.batching.pack(prompts, limits, range(8), 10_000, uniform=False, **more)
    ]
    assert pack() == [(0, 1, 2, 3, 4, 5)]
    assert pack(max_rows=24) == [(0, 1), (2, 3), (4, 5)]
    assert pack(max_rows=24, length_class=16) == [(0, 1, 2), (3, 4), (5,)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([(0, 1, 2, 3, 4), (5,)], [(0, 1, 2), (3, 4, 5)]),
        ([(0, 1, 2, 3, 4), (5,), (6,), (7,)], [(0, 1), (2, 3), (4, 5, 6), (7,)]),
        # Four rows of 20 tokens are more than five of 8, or two of 20.
        ([(0, 1, 2, 3, 4), (5, 8)], [(0, 1, 2, 3, 4), (5, 8)]),
        ([(0, 1), (8,)], [(0, 1), (8,)]),
    ],
)
def test_batches_of_one_length_are_made_equal_unless_the_largest_grows(before, after):
    lengths, limits = (2, 2, 3, 3, 4, 5, 6, 17, 16), [4] * 9
    prompts = [[5] * length for length in lengths]
    batches = [bon.generation.batching.Batch(positions, range(8)) for positions in before]
    evened = list(bon.generation.batching.evened(batches, prompts, limits))
    assert [batch.positions for batch in evened] == after
    assert all(batch.candidates == range(8) for batch in evened)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mamba"])
def test_batches_fill_half_of_a_gpus_free_memory(kind, build_model, monkeypatch):
    model = build_model(kind)
    free = 40 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    on_cpu = bon.generation.batching.automatic_batch_tokens(model)
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cuda")))
    tokens = bon.generation.batching.automatic_batch_tokens(model)
    # Keys and values alone: 2 layers, single precision, and at most 32 wide.
    assert tokens * 2 * 2 * 4 * 16 <= free // 2
    assert tokens > 100 * on_cpu
    free //= 4
    assert bon.generation.batching.automatic_batch_tokens(model) == pytest.approx(tokens / 4, rel=1e-3)
    free = 0
    assert bon.generation.batching.automatic_batch_tokens(model) == on_cpu


def test_a_model_that_is_large_for_the_machine_gets_smaller_batches(build_model, monkeypatch):
    model = build_model("llama")
    assert bon.generation.batching.automatic_batch_tokens(model) == bon.generation.batching.CPU_BATCH_TOKENS
    # Keys and values of two layers, two heads, eight numbers each; activations; logits of a token in 32.
    per_token = 2 * 2 * 2 * 8 * 4 + 16 * 32 + 5 * 4 * 80 // 32
    monkeypatch.setattr(bon.generation.batching, "_machine_memory", lambda: 4 * 300 * per_token)
    assert bon.generation.batching.automatic_batch_tokens(model) == 300
    monkeypatch.setattr(bon.generation.batching, "_machine_memory", lambda: 7)
    assert bon.generation.batching.automatic_batch_tokens(model) == 1


def test_logits_of_one_batch_are_bounded(gpt2, tokenizer, monkeypatch):
    whole = generate_candidates(gpt2, tokenizer, [[10]], 20, max_new_tokens=2)
    monkeypatch.setattr(bon.generation.generate, "BATCH_LOGITS", 80 * 7)
    decode, rows = bon.generation.generate.decode, []
    monkeypatch.setattr(
        bon.generation.generate,
        "decode",
        lambda *arguments, **options: rows.append(len(arguments[4])) or decode(*arguments, **options),
    )
    assert_same(generate_candidates(gpt2, tokenizer, [[10]], 20, max_new_tokens=2), whole)
    assert rows == [7, 7, 6]
