"""What only a GPU can tell of captured and compiled steps."""

import pytest
import torch
from pool_checks import PROMPTS, assert_same

import bon.generation.fast.step_cache
from bon import generate_candidates
from bon.generation.fast.step_cache import captured_steps_kept

OPTIONS = {"response_lengths": [21, 4, 17, 12, 9], "seed": 1}
END = {"eos_token_id": [1, 40, 41, 42, 43]}
PROCESSORS = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2, "min_new_tokens": 3}
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="captures in a CUDA graph")


@pytest.mark.parametrize("options", [{}, PROCESSORS], ids=["plain distribution", "processors"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_a_graph_draws_the_same(kind, options, build_model, tokenizer, monkeypatch):
    model = build_model(kind, spread=0.4).cuda()
    options = {**OPTIONS, **options}
    graph = generate_candidates(model, tokenizer, PROMPTS, 32, **options)
    monkeypatch.setattr(bon.generation.fast.step_cache, "_FEWEST_STEPS", 100)
    growing = generate_candidates(model, tokenizer, PROMPTS, 32, **options)
    assert (growing.metadata["steps"], graph.metadata["steps"]) == ("plain", "captured")
    assert_same(graph, growing, atol=1e-3)


def test_a_graph_that_is_kept_follows_the_weights(build_model, tokenizer):
    model = build_model("llama").cuda()
    draw = lambda: generate_candidates(model, tokenizer, PROMPTS, 16, max_new_tokens=9)  # noqa: E731
    with captured_steps_kept():
        first, again = draw(), draw()
        assert_same(first, again)  # the pass over the prompts is captured, too, from the second on
        assert_same(again, draw(), atol=0)
        with torch.no_grad():
            model.lm_head.weight.mul_(3)
        changed = draw()
        assert_same(changed, draw(), atol=0)
    assert (changed.token_ids != first.token_ids).any()
    assert_same(draw(), changed)


def test_a_calls_memory_is_given_back(build_model, tokenizer):
    model = build_model("llama").cuda()
    draw = lambda: generate_candidates(model, tokenizer, PROMPTS, 512, max_new_tokens=9)  # noqa: E731
    draw()  # libraries take their workspaces with the first call
    before = torch.cuda.memory_allocated()
    assert draw().metadata["steps"] == "captured"
    assert torch.cuda.memory_allocated() == before


def test_where_memory_ends_the_batch_is_halved(build_model, tokenizer):
    model = build_model("llama").cuda()
    prompts, options = [[5 + p] for p in range(16)], {"max_new_tokens": 9, "seed": 1}
    whole = generate_candidates(model, tokenizer, prompts, 2048, **options)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    share = (held + 96 * 2**20) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        halved = generate_candidates(model, tokenizer, prompts, 2048, **options, max_batch_tokens=10**9)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (halved.token_ids != whole.token_ids).any(-1).mean() < 1e-3


def test_what_waits_is_found_before_anything_is_recorded(build_model, tokenizer, monkeypatch):
    model = build_model("llama").cuda()
    mlp = type(model.model.layers[0].mlp)
    forward = mlp.forward

    def waiting(self, states):
        float(states.sum())
        return forward(self, states)

    monkeypatch.setattr(mlp, "forward", waiting)
    assert generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=9).metadata["steps"] == "plain"
    monkeypatch.undo()
    assert generate_candidates(model, tokenizer, PROMPTS, 4, max_new_tokens=9).metadata["steps"] == "captured"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_compiled_step_is_captured_too(kind, build_model, tokenizer):
    model = build_model(kind, spread=0.4).cuda()
    growing = generate_candidates(build_model(kind, spread=0.4), tokenizer, PROMPTS, 32, **OPTIONS, **END)
    same = generate_candidates(model, tokenizer, PROMPTS, 32, **OPTIONS, **END, compile=True)
    assert same.metadata["steps"] == "compiled"
    assert (same.token_ids != growing.token_ids).any(-1).mean() < 0.02


def test_a_compiled_step_that_is_kept_follows_the_weights(build_model, tokenizer):
    model = build_model("llama", spread=0.4).cuda()
    draw = lambda **more: generate_candidates(model, tokenizer, PROMPTS, 32, max_new_tokens=12, **more)  # noqa: E731
    with captured_steps_kept():
        before = draw(compile=True)
        for name in ("q_proj", "k_proj", "v_proj"):
            with torch.no_grad():
                getattr(model.model.layers[1].self_attn, name).weight.mul_(0.5)
        after = draw(compile=True)
    assert (before.token_ids != after.token_ids).any(-1).mean() > 0.1
    assert (after.token_ids != draw().token_ids).any(-1).mean() < 0.02
