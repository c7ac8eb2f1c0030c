"""Steps of a fixed shape draw what steps that grow draw: operation by operation on a CPU, in a graph on a GPU."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from host_waits import Waits
from pool_checks import PROMPTS, assert_same
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import bon.generation.fast.fused_norms
import bon.generation.fast.static_prefill
import bon.generation.fast.static_step
import bon.generation.fast.step_cache
import bon.generation.generate
import bon.generation.resume
from bon import generate_candidates
from bon.generation.fast.step_cache import CapturedSteps, capturable, captured_steps, captured_steps_kept
from bon.generation.resume import continue_candidates

KINDS = ["gpt2", "llama", "opt"]
PROCESSORS = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "min_new_tokens": 3}


@pytest.fixture
def fixed(monkeypatch):
    """Turns `fixed(steps)` on: calls take their steps from there, wherever they run."""

    def take(steps):
        @contextmanager
        def given(device, compile=False):
            yield steps

        for module in (bon.generation.generate, bon.generation.resume):
            monkeypatch.setattr(module, "captured_steps", given)
        return steps

    return take


@pytest.fixture
def made(monkeypatch):
    """The fixed steps that are made, in order."""
    steps, initialise = [], bon.generation.fast.static_step.FixedStep.__init__

    def counted(self, *arguments):
        steps.append(self)
        initialise(self, *arguments)

    monkeypatch.setattr(bon.generation.fast.static_step.FixedStep, "__init__", counted)
    return steps


@pytest.mark.parametrize("options", [{}, PROCESSORS], ids=["plain distribution", "processors"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_shape_draws_the_same(kind, attention, options, build_model, tokenizer, fixed):
    model = build_model(kind, spread=0.4, attn_implementation=attention)
    options = {"response_lengths": [21, 4, 17, 12, 9], "seed": 1, "eos_token_id": [1, 40, 41, 42, 43], **options}
    growing = generate_candidates(model, tokenizer, PROMPTS, 8, **options)
    fixed(CapturedSteps(capture=False))
    same = generate_candidates(model, tokenizer, PROMPTS, 8, **options)
    assert (growing.metadata["steps"], same.metadata["steps"]) == ("plain", "captured")
    assert_same(same, growing, atol=1e-4)
    ended = growing.lengths < np.array([21, 4, 17, 12, 9])[:, None]
    assert ended.any()
    assert not ended.all()


def test_a_step_serves_smaller_batches_of_its_width_and_idle_rows_change_nothing(build_model, tokenizer, fixed, made):
    model = build_model("llama", spread=0.4)
    prompts = [[5 + p, 6, 7][: 1 + p % 3] for p in range(10)]
    growing = generate_candidates(model, tokenizer, prompts, 8, max_new_tokens=12, seed=2)
    fixed(CapturedSteps(capture=False))
    # 10 prompts of 8 rows: batches of 4, 3 and 3 prompts.
    same = generate_candidates(model, tokenizer, prompts, 8, max_new_tokens=12, seed=2, max_batch_tokens=8 * 4 * 13)
    assert [(step.rows, step.total) for step in made] == [(32, 16)]
    assert_same(same, growing, atol=1e-4)


def test_rows_that_fill_less_than_half_of_a_step_and_wider_ones_get_their_own(build_model, tokenizer, fixed, made):
    model = build_model("gpt2")
    fixed(CapturedSteps(capture=False))
    for prompts in ([[5]] * 4, [[5]] * 2, [[5]] * 3, [[5] * 12], [[5] * 12]):
        generate_candidates(model, tokenizer, prompts, 2, max_new_tokens=8)
    assert [(step.rows, step.total) for step in made] == [(8, 16), (4, 16), (6, 16), (2, 32)]


def test_a_model_whose_weights_were_replaced_gets_a_new_step_and_one_trained_in_place_does_not(
    build_model, tokenizer, fixed, made
):
    model = build_model("llama")
    fixed(CapturedSteps(capture=False))
    draw = lambda: generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=8)  # noqa: E731
    draw()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    draw()
    assert len(made) == 1
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    draw()
    assert len(made) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_a_shape_that_comes_again_are_captured_too(kind, build_model, tokenizer, fixed, monkeypatch):
    model = build_model(kind, spread=0.4)
    shapes, load = [], bon.generation.fast.static_prefill.FixedPrompts._load

    def counted(self, ids, *arguments):
        shapes.append(tuple(ids.shape))
        load(self, ids, *arguments)

    monkeypatch.setattr(bon.generation.fast.static_prefill.FixedPrompts, "_load", counted)
    calls = [PROMPTS, PROMPTS[::-1], [[9, *p[1:]] for p in PROMPTS], PROMPTS[:2], PROMPTS]
    draw = lambda prompts: generate_candidates(model, tokenizer, prompts, 8, max_new_tokens=16, seed=3)  # noqa: E731
    growing = [draw(prompts) for prompts in calls]
    fixed(CapturedSteps(capture=False))
    for prompts, expected in zip(calls, growing, strict=True):
        assert_same(draw(prompts), expected, atol=1e-4)
    assert shapes == [(5, 7)] * 3  # made with the second call, run with it and with the third


def test_going_on_with_responses(build_model, tokenizer, fixed):
    model = build_model("llama", spread=0.4)
    short = generate_candidates(model, tokenizer, PROMPTS, 6, max_new_tokens=3, seed=4)
    growing = continue_candidates(model, tokenizer, short, [20, 20, 14, 20, 9], max_new_tokens=3, seed=4)
    begun = []
    steps = fixed(CapturedSteps(capture=False))
    begin = steps.begin
    steps.begin = lambda *arguments: begun.append(begin(*arguments)) or begun[-1]
    same = continue_candidates(model, tokenizer, short, [20, 20, 14, 20, 9], max_new_tokens=3, seed=4)
    assert any(step is not None for step in begun)
    assert_same(same, growing, atol=1e-4)


@pytest.mark.parametrize("prompts", [[[5, 6, 7], [8, 9, 10]], [[5], [6, 7, 8, 9]]], ids=["of one length", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_for_nothing(kind, prompts, build_model, tokenizer, monkeypatch, fixed):
    model = build_model(kind)
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    monkeypatch.setattr(bon.generation.token_loop, "_looks_every", lambda device: 8)
    seen = []
    generate_candidates(model, tokenizer, prompts, 4, max_new_tokens=1)  # finds out which rows may share a batch
    for length in (17, 25):  # two and three looks
        fixed(CapturedSteps(capture=False))
        with Waits() as waits:
            generate_candidates(model, tokenizer, prompts, 4, max_new_tokens=length, eos_token_id=None)
        seen.append(waits.seen.total())
    assert seen[1] == seen[0] + 1


def test_nothing_is_left_behind_in_the_model_or_in_transformers(build_model, tokenizer, fixed, monkeypatch):
    model = build_model("llama")
    attention = ALL_ATTENTION_FUNCTIONS["sdpa"]
    fixed(CapturedSteps(capture=False))
    generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=8)
    monkeypatch.setattr(model.model, "norm", nn.Identity())
    monkeypatch.setattr(nn.Identity, "forward", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=8)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention
    assert not any("forward" in vars(module) for module in model.modules())


def _alibi(model):
    model.config.alibi = True


def _hooked(model):
    model.lm_head.register_forward_hook(lambda *arguments: None)


@pytest.mark.parametrize("change", [_alibi, _hooked])
def test_what_a_graph_cannot_hold_is_known_beforehand(change, build_model, tokenizer, fixed, made):
    model = build_model("llama")
    fixed(CapturedSteps(capture=False))
    change(model)
    assert generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=8).metadata["steps"] == "plain"
    assert made == []


def test_a_hook_of_nothing_but_operations_is_part_of_the_step(build_model, tokenizer, fixed, made):
    model = build_model("llama", spread=0.4)
    free = generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=12, eos_token_id=None)
    often = int(np.bincount(free.token_ids[free.token_ids > 1]).argmax())  # neither padding nor the end

    @capturable
    def never(_module, _inputs, logits):
        logits[..., often] = torch.finfo(logits.dtype).min
        return logits

    model.lm_head.register_forward_hook(never)
    plain = generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=12, eos_token_id=None)
    fixed(CapturedSteps(capture=False))
    same = generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=12, eos_token_id=None)
    assert same.metadata["steps"] == "captured"
    assert len(made) == 1
    assert not (same.token_ids == often).any()
    assert_same(same, plain)


@pytest.mark.parametrize("kind", ["mistral", "bloom", "mamba"])
def test_models_with_another_state_are_run_as_before(kind, build_model, tokenizer, fixed, made):
    model = build_model(kind)
    growing = generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=9)
    fixed(CapturedSteps(capture=False))
    same = generate_candidates(model, tokenizer, PROMPTS, 2, max_new_tokens=9)
    assert same.metadata["steps"] == "plain"
    assert made == []
    assert_same(same, growing, atol=0)


def test_short_responses_are_not_worth_a_capture(gpt2, tokenizer, fixed, made):
    fixed(CapturedSteps(capture=False))
    assert generate_candidates(gpt2, tokenizer, PROMPTS, 2, max_new_tokens=7).metadata["steps"] == "plain"
    assert made == []


def test_a_model_that_cannot_be_captured_is_tried_once_and_run_as_before(gpt2, tokenizer, fixed, made, monkeypatch):
    growing = generate_candidates(gpt2, tokenizer, PROMPTS, 4, max_new_tokens=9)

    def cannot(self, *arguments):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(bon.generation.fast.static_step.FixedStep, "capture", cannot)
    fixed(CapturedSteps())
    same = generate_candidates(gpt2, tokenizer, PROMPTS, 4, max_new_tokens=9, max_batch_tokens=100)
    assert len(made) == 1
    assert same.metadata["steps"] == "plain"
    assert_same(same, growing)


def test_no_memory_for_a_capture_halves_the_batch_and_keeps_nothing(gpt2, tokenizer, fixed, made, monkeypatch):
    growing = generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=9)

    def small(self, *arguments):
        assert steps._step is None
        if self.rows > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self(*arguments)

    monkeypatch.setattr(bon.generation.fast.static_step.FixedStep, "capture", small)
    steps = fixed(CapturedSteps())
    same = generate_candidates(gpt2, tokenizer, PROMPTS, 5, max_new_tokens=9)
    assert made[0].rows == 25
    assert same.metadata["steps"] == "captured"
    assert_same(same, growing)


def test_on_a_cpu_nothing_is_captured():
    for kept in (False, True):
        with (
            captured_steps_kept() if kept else captured_steps(torch.device("cpu")),
            captured_steps(torch.device("cpu")) as steps,
        ):
            assert steps is None


def test_on_a_gpu_a_call_has_its_own_steps_unless_they_are_kept():
    with captured_steps(torch.device("cuda")) as one, captured_steps(torch.device("cuda")) as other:
        assert one is not other
    with captured_steps_kept() as kept, captured_steps(torch.device("cuda")) as inside:
        assert inside is kept
    with captured_steps(torch.device("cuda")) as after:
        assert after is not kept
