"""What torch's compiler is told about decode steps."""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor import config
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from bon.packed import product

_aten = torch.ops.aten


def options() -> dict[str, Any]:
    """Inductor's options. Its own CUDA graphs are off by default, as they must be: a step is captured by `bon.captured`."""
    chosen: dict[str, Any] = {"post_grad_custom_pre_pass": PackedProducts()}
    if hasattr(config.cpp, "use_decompose_tanh"):
        chosen["cpp.use_decompose_tanh"] = True  # GPT-2's GELU takes two fifths of the time
    return chosen


class PackedProducts(CustomGraphPass):
    """Products with a weight that comes from outside the graph become those of `bon.packed`."""

    def __call__(self, graph: Graph) -> None:
        """Change the graph in place."""
        for node in list(graph.nodes):
            bias, states, weight = _parts(node)
            weight, transposed = _untransposed(weight)
            if weight is not None and weight.op == "placeholder" and _has_units(node.meta["val"]):
                with graph.inserting_before(node):
                    packed = graph.call_function(product, (states, weight, bias, transposed))
                packed.meta.update(node.meta)
                node.replace_all_uses_with(packed)
                graph.erase_node(node)

    def uuid(self) -> Any:
        """For the compiler's cache."""
        return get_hash_for_files((__file__,))


def _parts(node: Node) -> tuple[Any, Any, Any]:
    """Bias, states and weight of a product; three times None for another node."""
    arguments: tuple[Any, ...] = node.args
    if not node.kwargs and node.target is _aten.mm.default:
        return None, arguments[0], arguments[1]
    if not node.kwargs and node.target is _aten.addmm.default and arguments[0].meta["val"].dim() == 1:
        return arguments[0], arguments[1], arguments[2]
    return None, None, None


def _untransposed(node: Any) -> tuple[Any, bool]:
    """The matrix that the node transposes, and whether it does."""
    transposes = node is not None and node.op == "call_function" and node.target in (_aten.t.default, _aten.permute.default)
    return (node.args[0], True) if transposes else (node, False)


def _has_units(tensor: torch.Tensor) -> bool:
    """Whether oneDNN has a fast product for tensors like this one."""
    if tensor.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return tensor.dtype == torch.float32 or (tensor.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
