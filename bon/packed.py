"""Matrix products of compiled steps on a CPU, over weights in the order in which its units read them.

A step multiplies a few hundred rows by matrices that stay the same for all of its tokens. Put in order once for a batch, they
are multiplied by a sixth faster in half precision, and up to a third in single precision. A compiler would do that only for
weights that it may take to be constants; here they may change between two batches, as an optimiser changes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_library = torch.library.Library("bon", "FRAGMENT")
_library.define("packed_product(Tensor states, Tensor weight, Tensor? bias, bool transposed) -> Tensor")

#: The packed weights of the step that runs.
_packed: ContextVar[dict[Any, Any] | None] = ContextVar("_packed", default=None)


@contextmanager
def packed_weights(packed: dict[Any, Any]) -> Iterator[None]:
    """Inside, products take their weights from `packed`, and put there those that are not in it yet."""
    token = _packed.set(packed)
    try:
        yield
    finally:
        _packed.reset(token)


def _product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool) -> torch.Tensor:
    """states [R, I] @ weight [I, O] + bias [O], or weight [O, I] `transposed`.

    The weight is known by where it lies, so it must be the model's own and not a copy.
    """
    packed = _packed.get()
    if packed is None:
        weight = weight.t() if transposed else weight
        return states @ weight if bias is None else torch.addmm(bias, states, weight)
    key = (weight.data_ptr(), transposed, *weight.shape)
    if key not in packed:
        rows_of_outputs = weight if transposed else weight.t()
        packed[key] = torch.ops.mkldnn._reorder_linear_weight(rows_of_outputs.contiguous(), states.shape[0])
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, packed[key], bias, "none", [], "")
    return found


def _shape(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, transposed: bool) -> torch.Tensor:
    return states.new_empty(states.shape[0], weight.shape[0 if transposed else 1])


_library.impl("packed_product", _product, "CPU")
torch.library.register_fake("bon::packed_product", _shape, lib=_library)
#: `_product`, as an operation of torch's that a compiled step may hold.
product = torch.ops.bon.packed_product.default
