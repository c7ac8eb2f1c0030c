"""Compiled steps draw what steps that grow draw, and are compiled once a shape."""

import copy
import logging
import pickle
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from pool_checks import PROMPTS, assert_same, last_number
from torch._dynamo.utils import counters
from transformers.models.llama.modeling_llama import LlamaMLP

import bon.generation.fast.static_step
from bon import BestOfNSampler, generate_candidates
from bon.generation.fast.step_cache import captured_steps_kept
from bon.likelihood import sequence_logprobs

OPTIONS = {"response_lengths": [21, 4, 17, 12, 9], "seed": 1, "eos_token_id": [1, 40, 41, 42, 43]}
PROCESSORS = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "min_new_tokens": 3}

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="compiles C++")


@pytest.fixture
def compiled():
    """compiled() -> how many graphs were compiled since the test began."""
    before = counters["stats"]["unique_graphs"]
    return lambda: counters["stats"]["unique_graphs"] - before


@needs_compiler
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_it_draws_the_same_and_compiles_once(kind, build_model, tokenizer, compiled):
    model = build_model(kind, spread=0.4)
    for options in (OPTIONS, {**OPTIONS, **PROCESSORS}):
        growing = generate_candidates(model, tokenizer, PROMPTS, 8, **options)
        same = generate_candidates(model, tokenizer, PROMPTS, 8, **options, compile=True)
        assert (growing.metadata["steps"], same.metadata["steps"]) == ("plain", "compiled")
        assert_same(same, growing, atol=1e-4)
    assert compiled() == 2  # the first draws its tokens too, the second leaves that to the processors
    # Batches of 2, 2 and 1 prompts of several lengths, and other weights.
    draw = lambda **more: generate_candidates(model, tokenizer, PROMPTS, 8, max_new_tokens=20, **more)  # noqa: E731
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.9)
    assert_same(draw(compile=True, max_batch_tokens=8 * 2 * 27), draw(), atol=1e-4)
    assert compiled() == 3


@needs_compiler
def test_a_sampler_keeps_its_step_and_may_be_copied(build_model, tokenizer, compiled, monkeypatch):
    model = build_model("llama", spread=0.4)
    made, initialise = [], bon.generation.fast.static_step.FixedStep.__init__
    monkeypatch.setattr(
        bon.generation.fast.static_step.FixedStep,
        "__init__",
        lambda self, *arguments: made.append(self) or initialise(self, *arguments),
    )
    build = lambda **more: BestOfNSampler(model, tokenizer, last_number, lambda: 12, 8, seed=3, **more)  # noqa: E731
    plain, fast = build(), build(compile=True)
    for queries in (PROMPTS, PROMPTS[::-1], PROMPTS[1:3]):
        expected, pool = plain.sample(queries), fast.sample(queries)
        assert pool.metadata["steps"] == "compiled"
        assert_same(pool, expected, atol=1e-4)
    assert len(made) == compiled() == 1
    assert pickle.loads(pickle.dumps(fast._steps))._step is None
    other = copy.deepcopy(fast._steps)
    assert other.compile
    assert other._step is None
    assert generate_candidates(model, tokenizer, PROMPTS, 8, max_new_tokens=12).metadata["steps"] == "plain"


def test_what_cannot_be_compiled_is_run_as_before_with_a_warning(build_model, tokenizer, monkeypatch, caplog):
    model = build_model("llama", spread=0.4)
    growing = generate_candidates(model, tokenizer, PROMPTS, 4, **OPTIONS)
    forward = LlamaMLP.forward

    def looking(self, states):
        return forward(self, states) if float(states.sum()) < 1e9 else states

    monkeypatch.setattr(LlamaMLP, "forward", looking)
    with caplog.at_level(logging.WARNING, logger="bon.generation.fast.step_cache"):
        same = generate_candidates(model, tokenizer, PROMPTS, 4, **OPTIONS, compile=True, max_batch_tokens=100)
    assert same.metadata["steps"] == "plain"
    assert_same(same, growing)
    (record,) = caplog.records
    assert record.getMessage().startswith("the step cannot be compiled and is run without: ")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(("kind", "length"), [("mamba", 9), ("mistral", 9), ("gpt2", 7)])
def test_what_has_no_fixed_shape_is_not_compiled(kind, length, build_model, tokenizer, compiled):
    model = build_model(kind)
    pools = [
        generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=length, compile=compile) for compile in (False, True)
    ]
    assert pools[1].metadata["steps"] == "plain"
    assert_same(*pools)
    assert compiled() == 0


def test_shapes_are_forgotten_and_none_of_them_keeps_a_model(build_model, monkeypatch):
    monkeypatch.setattr(bon.generation.fast.static_step, "_PROGRAMS", 2)
    model = build_model("gpt2")
    programs = [
        bon.generation.fast.static_step._program(model, rows, 16, draws) for rows, draws in ((2, True), (4, True), (4, False))
    ]
    assert list(bon.generation.fast.static_step._programs[model]) == [(4, 16, True), (4, 16, False)]
    assert bon.generation.fast.static_step._program(model, 4, 16, False) is programs[2]
    held = len(bon.generation.fast.static_step._programs)
    del model
    assert len(bon.generation.fast.static_step._programs) == held - 1


@pytest.mark.parametrize(
    ("rows", "total", "held"),
    [(64, 32, True), (9, 32, True), (8, 32, False), (65, 32, False), (64, 17, True), (64, 16, False), (64, 33, False)],
)
def test_what_a_compiled_step_is_good_for(rows, total, held, build_model):
    model = build_model("gpt2")
    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([[5]]), use_cache=True).past_key_values
    assert bon.generation.fast.static_step.FixedStep(model, cache, 64, 32, True).holds(rows, total) is held


@needs_compiler
@pytest.mark.parametrize(("kind", "products"), [("gpt2", 4 * 2 + 1), ("llama", 4 * 2 + 1), ("opt", 4 * 2 + 1)])
def test_products_of_a_compiled_step_take_packed_weights_those_of_the_day(kind, products, build_model, tokenizer, monkeypatch):
    model = build_model(kind, spread=0.4)
    packed = []

    @contextmanager
    def watched(weights, given=bon.generation.fast.static_step.packed_weights):
        with given(weights):
            yield
        packed.append(len(weights))

    monkeypatch.setattr(bon.generation.fast.static_step, "packed_weights", watched)
    draw = lambda **more: generate_candidates(model, tokenizer, PROMPTS, 8, max_new_tokens=12, **more)  # noqa: E731
    with captured_steps_kept():
        before = draw(compile=True)
        assert_same(before, draw(), atol=1e-4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.8)
        after = draw(compile=True)
    assert_same(after, draw(), atol=1e-4)
    assert (before.token_ids != after.token_ids).any()
    assert set(packed) == {products}  # four in each of two layers, and the last


@needs_compiler
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_half_precision_is_as_near_to_single_precision_as_without(kind, build_model, tokenizer):
    single = build_model(kind, spread=0.4)
    half = copy.deepcopy(single).to(torch.bfloat16)
    errors = {}
    for compile in (False, True):
        pool = generate_candidates(half, tokenizer, PROMPTS, 64, max_new_tokens=12, compile=compile)
        assert pool.metadata["steps"] == ("compiled" if compile else "plain")
        exact = sequence_logprobs(single, pool)
        errors[compile] = np.abs(pool.logprobs - exact).mean()
    assert 0 < errors[True] < 1.25 * errors[False]
