"""Views of a model: its weights, but modes, options and hooks that the caller's model never sees changed."""

import functools
import threading

import pytest
import torch
from transformers import GenerationConfig

from bon import generate_candidates
from bon.model_view import caller_of, has_adapters, view_of

IDS = torch.tensor([[10, 11, 12, 13]])


def everything(model):
    """Every attribute of every module, by identity; and what configs hold."""
    state = {(name, key): id(value) for name, module in model.named_modules() for key, value in vars(module).items()}
    return state, model.config.to_dict(), model.generation_config.to_dict(), [part.training for part in model.modules()]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma", "opt", "bloom", "mamba"])
def test_a_view_computes_what_the_model_computes_in_evaluation_mode(kind, build_model):
    model = build_model(kind).train()
    before = everything(model)
    view = view_of(model)
    with torch.no_grad():
        found = view(input_ids=IDS).logits
        assert everything(model) == before
        assert torch.equal(found, model.eval()(input_ids=IDS).logits)
    assert not any(part.training for part in view.modules())
    assert {id(tensor) for tensor in view.parameters()} == {id(tensor) for tensor in model.parameters()}


def test_a_view_of_a_view_is_itself_and_knows_its_model(gpt2):
    view = view_of(gpt2)
    assert view_of(view) is view
    assert caller_of(view) is caller_of(gpt2) is gpt2


def test_weights_that_change_in_place_change_in_the_view(build_model):
    model = build_model("gpt2")
    view = view_of(model)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(2)
        assert torch.equal(view(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_modes_and_options_of_the_view_are_its_own(build_model):
    model = build_model("llama")
    model.generation_config = GenerationConfig(temperature=0.5)
    view = view_of(model)
    view.config._attn_implementation = "eager"
    view.generation_config.top_k = 3
    view.train()
    assert model.config._attn_implementation == "sdpa"
    assert (model.generation_config.temperature, model.generation_config.top_k) == (0.5, None)
    assert not model.training


def test_hooks_run_and_see_the_callers_modules(build_model):
    model = build_model("gpt2")
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(module) or output + 1)
    model.transformer.register_forward_pre_hook(lambda module, inputs, options: seen.append(module), with_kwargs=True)
    with torch.no_grad():
        assert torch.equal(view_of(model)(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert seen == 2 * [model.transformer, model.lm_head]


@pytest.mark.parametrize("how", ["method", "partial", "closure", "list"])
def test_what_holds_modules_by_other_ways_holds_those_of_the_view(how, build_model):
    model = build_model("gpt2")
    layer = model.transformer.h[0]
    modes, forward = [], layer.forward

    def noted(module, *arguments, **options):
        modes.append(module.training)
        return type(layer).forward(module, *arguments, **options)

    if how == "method":
        layer.forward = noted.__get__(layer)
    elif how == "partial":
        layer.forward = functools.partial(noted, layer)
    elif how == "closure":
        layer.forward = lambda *arguments, **options: noted(layer, *arguments, **options)
    else:
        layer.others = [layer]
        layer.forward = types_method(layer, modes)
    with torch.no_grad():
        view_of(model.train())(input_ids=IDS)
    assert modes == [False]
    assert forward.__self__ is layer


def types_method(layer, modes):
    def noted(module, *arguments, **options):
        modes.append(module.others[0].training)
        return type(layer).forward(module, *arguments, **options)

    return noted.__get__(layer)


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_other_threads_see_a_model_that_nobody_touches(kind, build_model, tokenizer):
    model = build_model(kind).train()
    model.generation_config.temperature, model.generation_config.top_k = 0.5, 3
    before, seen, over = everything(model), [], threading.Event()

    def draw():
        for _ in range(3):
            generate_candidates(model, tokenizer, [[10, 11], [12]], 4, max_new_tokens=6)

    def watch():
        while not over.is_set():
            seen.append(everything(model) == before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    drawers = [threading.Thread(target=draw) for _ in range(2)]
    for thread in drawers:
        thread.start()
    for thread in drawers:
        thread.join()
    over.set()
    watcher.join()
    assert seen
    assert all(seen)


def test_a_model_without_adapters_has_none(gpt2):
    assert not has_adapters(gpt2)
    assert torch.equal(view_of(gpt2, adapters=False)(input_ids=IDS).logits, gpt2(input_ids=IDS).logits)
