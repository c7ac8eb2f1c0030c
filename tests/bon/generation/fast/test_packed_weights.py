"""Joined products compute what single ones do; which are joined depends on the device and on their size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from bon.generation.fast.inductor import PackedProducts
from bon.generation.fast.packed_weights import PackedWeights, packed_weights, product


def linears(states, weights, biases, transposed):
    """One result for each weight, products in two dimensions as a compiler has them."""
    results = []
    for index, weight in enumerate(weights):
        matrix = weight.t() if transposed else weight
        results.append(torch.addmm(biases[index], states, matrix) if biases else states @ matrix)
    return results


def packed_graph(*inputs, mode="real"):
    module = make_fx(linears, tracing_mode=mode)(*inputs)
    PackedProducts()(module.graph)
    module.graph.lint()
    module.recompile()
    return module


def made(rows, inputs, outputs, biased, transposed, device="cpu", dtype=torch.float32):
    generator = None if device != "cpu" else torch.Generator().manual_seed(rows)
    new = lambda *shape: torch.randn(shape, device=device, dtype=dtype, generator=generator)  # noqa: E731
    weights = [new(*((width, inputs) if transposed else (inputs, width))) for width in outputs]
    return new(rows, inputs), weights, [new(width) for width in outputs] if biased else [], transposed


def products_of(module):
    return [node for node in module.graph.nodes if node.target is product]


@given(
    rows=st.integers(1, 9),
    inputs=st.integers(1, 20),
    outputs=st.lists(st.integers(1, 17), min_size=1, max_size=4),
    biased=st.booleans(),
    transposed=st.booleans(),
)
def test_a_joined_product_is_single_ones_side_by_side_also_after_the_weights_change(rows, inputs, outputs, biased, transposed):
    states, weights, biases, _ = given_inputs = made(rows, inputs, outputs, biased, transposed)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = packed_graph(*given_inputs, mode="fake")
    assert len(products_of(module)) == 1
    packed = PackedWeights()
    for _ in range(2):
        with packed_weights(packed), torch.no_grad():
            results = module(states, weights, biases, transposed)
        torch.testing.assert_close(results, linears(states, weights, biases, transposed), atol=1e-5, rtol=1e-5)
        assert len(packed) == 1
        for weight in weights:
            weight.mul_(-2)
        packed.renew()


@pytest.mark.parametrize(
    ("device", "outputs", "inputs", "joined"),
    [
        ("cpu", [8, 4, 4], 16, [3]),
        ("cpu", [8], 16, [1]),
        ("cuda", [8, 4, 4], 16, [3]),
        ("cuda", [8], 16, []),
        ("cuda", [1024, 1024], 4096, [2]),
        ("cuda", [1024, 1025], 4096, []),  # more than 16 MiB
    ],
)
def test_what_is_joined(device, outputs, inputs, joined):
    with FakeTensorMode():
        module = packed_graph(*made(2, inputs, outputs, False, True, device, torch.bfloat16), mode="fake")
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        joined = []
    assert [len(node.args[1]) for node in products_of(module)] == joined


def test_products_of_other_states_or_of_weights_that_are_computed_stay_apart():
    def apart(one, other, weight):
        return one @ weight, other @ weight, one @ (2 * weight)

    one, other, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(8, 5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = make_fx(apart, tracing_mode="fake")(one, other, weight)
    PackedProducts()(module.graph)
    module.recompile()
    assert [len(node.args[1]) for node in products_of(module)] == [1, 1]
    torch.testing.assert_close(module(one, other, weight), apart(one, other, weight))


def test_one_weight_may_have_two_biases():
    weight, biases, packed = torch.randn(4, 3), torch.randn(2, 4), PackedWeights()
    for states, bias in zip(torch.randn(2, 5, 3), biases, strict=True):
        with packed_weights(packed):
            found = product(states, [weight], [bias], True)
        torch.testing.assert_close(found, torch.addmm(bias, states, weight.t()))
