"""What torch's compiler is told about decode steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from bon.generation.fast import packed_weights

_aten = torch.ops.aten
#: Weights that are joined for a GPU have no more bytes than this together: more fill it without, and a copy costs memory.
_JOINED_BYTES = 2**24


def options() -> dict[str, Any]:
    """Inductor's options. Its own CUDA graphs are off by default, as they must be: `step_cache` captures the steps."""
    chosen: dict[str, Any] = {"post_grad_custom_pre_pass": PackedProducts()}
    if hasattr(config.cpp, "use_decompose_tanh"):
        chosen["cpp.use_decompose_tanh"] = True  # GPT-2's GELU takes two fifths of the time
    return chosen


@dataclass(frozen=True)
class _Product:
    """A product of states with a weight and a bias that come from outside the graph."""

    node: Node
    states: Node
    weight: Node
    bias: Node | None
    transposed: bool

    @property
    def kind(self) -> tuple[Any, ...]:
        """What products that can be joined have in common."""
        return _behind_views(self.states), self.states.meta["val"].shape, self.transposed, self.bias is None

    @property
    def outputs(self) -> int:
        return int(self.node.meta["val"].shape[1])


class PackedProducts(CustomGraphPass):
    """Products with weights from outside the graph become those of `packed_weights`; those of the same states become one."""

    def __call__(self, graph: Graph) -> None:
        """Change the graph in place."""
        alike: dict[tuple[Any, ...], list[_Product]] = defaultdict(list)
        for node in graph.nodes:
            found = _product(node)
            if found is not None:
                alike[found.kind].append(found)
        for products in alike.values():
            if _gains(products):
                _join(graph, products)

    def uuid(self) -> Any:
        """For the compiler's cache."""
        return get_hash_for_files((__file__, packed_weights.__file__))


def _product(node: Node) -> _Product | None:
    arguments: tuple[Any, ...] = node.args
    if node.kwargs or node.target not in (_aten.mm.default, _aten.addmm.default):
        return None
    bias, states, weight = arguments if node.target is _aten.addmm.default else (None, *arguments)
    transposed = weight.op == "call_function" and weight.target in (_aten.t.default, _aten.permute.default)
    weight = weight.args[0] if transposed else weight
    outside = weight.op == "placeholder" and (bias is None or (bias.op == "placeholder" and bias.meta["val"].dim() == 1))
    return _Product(node, states, weight, bias, transposed) if outside else None


def _behind_views(node: Node) -> Node:
    while node.op == "call_function" and node.target in (_aten.view.default, _aten.reshape.default):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _gains(products: Sequence[_Product]) -> bool:
    """Whether one packed product is faster than these."""
    weights = [found.weight.meta["val"] for found in products]
    device, dtype = weights[0].device.type, weights[0].dtype
    if device == "cuda":
        return len(weights) > 1 and sum(weight.numel() for weight in weights) * dtype.itemsize <= _JOINED_BYTES
    if device != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _join(graph: Graph, products: Sequence[_Product]) -> None:
    first = products[0]
    biases = [found.bias for found in products if found.bias is not None]
    with graph.inserting_before(first.node):
        joined = graph.call_function(
            packed_weights.product, (first.states, [found.weight for found in products], biases, first.transposed)
        )
        value = first.states.meta["val"]
        joined.meta["val"] = value.new_empty(value.shape[0], sum(found.outputs for found in products))
        parts, begin = [], 0
        for found in products:
            part = joined
            if len(products) > 1:
                part = graph.call_function(_aten.slice.Tensor, (joined, 1, begin, begin + found.outputs))
                part.meta["val"] = joined.meta["val"].narrow(1, begin, found.outputs)
            parts.append(part)
            begin += found.outputs
    for found, part in zip(products, parts, strict=True):
        found.node.replace_all_uses_with(part)
        graph.erase_node(found.node)
