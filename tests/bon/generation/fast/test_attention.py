"""Attention of single queries: both ways against attention written out, head by head; and what is left to transformers."""

import pytest
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bon import generate_candidates
from bon.generation.fast.attention import NAME, by_products, fused, single_query_attention
from bon.generation.fast.views import sampling_view

HEADS, LENGTH, WIDTH = 6, 7, 4


def states(groups, queries=1):
    """Queries [3, 6, Q, 4], keys and values [3, G, 7, 4]."""
    generator = torch.Generator().manual_seed(0)
    shapes = (HEADS, queries), (groups, LENGTH), (groups, LENGTH)
    return [torch.randn(3, heads, length, WIDTH, generator=generator) for heads, length in shapes]


def masks():
    """No mask; where a query may look; what is added to its scores."""
    seen = torch.rand(3, 1, 1, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.3
    seen[..., -1] = True
    return {"none": None, "bool": seen, "added": torch.where(seen, 0.0, torch.finfo(torch.float32).min)}


@pytest.mark.parametrize("attend", [fused, by_products])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("kind", ["none", "bool", "added"])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_attention_written_out(attend, groups, kind, scaling):
    query, key, value = states(groups)
    seen = masks()["bool"]
    grouped = query.reshape(3, groups, -1, WIDTH)
    attended = attend(grouped, key, value, masks()[kind], scaling).reshape(3, HEADS, WIDTH)
    for row in range(3):
        for head in range(HEADS):
            group = head // (HEADS // groups)
            scores = [float(query[row, head, 0] @ key[row, group, t]) * (scaling or WIDTH**-0.5) for t in range(LENGTH)]
            looks = [t for t in range(LENGTH) if kind == "none" or seen[row, 0, 0, t]]
            shares = torch.tensor([scores[t] for t in looks]).softmax(0)
            expected = sum(share * value[row, group, t] for share, t in zip(shares, looks, strict=True))
            torch.testing.assert_close(attended[row, head], expected)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_transformers_gets_its_own_shape(groups):
    query, key, value = states(groups)
    attended, weights = single_query_attention(None, query, key, value, masks()["bool"])
    assert weights is None
    assert attended.shape == (3, 1, HEADS, WIDTH)
    of_head = [by_products(*(each.repeat_interleave(HEADS // each.shape[1], 1)[:, [h]] for each in (query, key, value)),
                           masks()["bool"], None) for h in range(HEADS)]  # fmt: skip
    torch.testing.assert_close(attended[:, 0], torch.cat(of_head, 1).squeeze(2))


@pytest.mark.parametrize("attend", [fused, by_products])
def test_half_precision_is_that_of_its_numbers(attend):
    half = [each.bfloat16() for each in states(6)]
    single = [each.float() for each in half]
    for mask in masks().values():
        ours = mask if mask is None or mask.dtype == torch.bool else mask.bfloat16()
        attended = attend(*half, ours, None)
        assert attended.dtype == torch.bfloat16
        torch.testing.assert_close(attended.float(), attend(*single, mask, None), atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    ("queries", "more"),
    [(2, {}), (1, {"dropout": 0.1}), (1, {"softcap": 30.0}), (1, {"position_bias": torch.zeros(1)})],
)
def test_what_else_a_model_asks_for_is_left_to_transformers(queries, more, monkeypatch):
    asked = []

    def plain(*arguments, **options):
        asked.append((arguments, options))
        return "plain"

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", plain)
    given = states(6, queries)
    assert single_query_attention("module", *given, None, scaling=0.5, **more) == "plain"
    ((arguments, options),) = asked
    assert arguments == ("module", *given, None)
    assert options == {"dropout": 0.0, "scaling": 0.5, **more}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_views_have_it_and_the_callers_model_keeps_its_own(kind, build_model):
    model = build_model(kind)
    view = sampling_view(model)
    assert {part.config._attn_implementation for part in view.modules() if hasattr(part, "config")} == {NAME}
    assert {part.config._attn_implementation for part in model.modules() if hasattr(part, "config")} == {"sdpa"}


def test_models_that_look_at_the_name_or_have_no_choice_keep_transformers_own(build_model):
    falcon = transformers.FalconForCausalLM(
        transformers.FalconConfig(vocab_size=80, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    )
    assert sampling_view(falcon).config._attn_implementation == "sdpa"
    assert sampling_view(build_model("gpt2", attn_implementation="eager")).config._attn_implementation == "eager"


def test_transformers_own_is_never_replaced(gpt2, tokenizer, monkeypatch):
    before, seen = ALL_ATTENTION_FUNCTIONS["sdpa"], []
    monkeypatch.setattr(type(gpt2.lm_head), "forward", watched(type(gpt2.lm_head).forward, seen))
    generate_candidates(gpt2, tokenizer, [[5, 6], [7]], 2, max_new_tokens=4)
    assert len(seen) >= 4  # a step per token; more where the model is looked at first
    assert all(each is before for each in seen)


def watched(forward, seen):
    """A forward that keeps what `sdpa` is each time it is called."""

    def call(self, states):
        seen.append(ALL_ATTENTION_FUNCTIONS["sdpa"])
        return forward(self, states)

    return call
