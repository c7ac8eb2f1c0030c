"""Matrix products of compiled steps, over weights that are laid out for them once a batch.

A step multiplies a few hundred rows by matrices that stay the same for all of its tokens. On a CPU they are put in the order
in which its units read them: a sixth faster in half precision, and up to a third in single precision. Matrices that multiply
the same rows, such as those of queries, keys and values, become one: a GPU then runs one kernel in place of three that are
each too small to fill it. A compiler would do either only for weights that it may take to be constants; here they may change
between two batches, as an optimizer changes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.functional import linear

_library = torch.library.Library("bon", "FRAGMENT")
_library.define("packed_product(Tensor states, Tensor[] weights, Tensor[] biases, bool transposed) -> Tensor")


class PackedWeights:
    """The weights of one step as its products take them, each laid out when it is first asked for."""

    def __init__(self) -> None:
        self._packed: dict[Any, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._copies: list[torch.Tensor] = []
        self._originals: list[torch.Tensor] = []

    def __len__(self) -> int:
        return len(self._packed)

    def of(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], transposed: bool, rows: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One weight and one bias [O] or None, for all of the outputs. What is given is known by where it lies.

        Args:
            weights: each [I, O], or [O, I] where `transposed`; the model's own, not copies.
            biases: one [O] for each weight, or none.
            transposed: how they lie.
            rows: of the states that they are going to multiply.
        """
        key = (transposed, *((tensor.data_ptr(), *tensor.shape) for tensor in (*weights, *biases)))
        if key not in self._packed:
            self._packed[key] = self._laid_out([weight if transposed else weight.t() for weight in weights], biases, rows)
        return self._packed[key]

    def _laid_out(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], rows: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = torch.cat(list(weights)), torch.cat(list(biases)) if biases else None
        if weight.device.type == "cpu":
            return torch.ops.mkldnn._reorder_linear_weight(weight, rows), bias
        for joined, parts in ((weight, weights), (bias, biases)):
            if joined is not None:
                self._copies += joined.split([len(part) for part in parts])
                self._originals += parts
        return weight, bias

    def renew(self) -> None:
        """Take in the current weights: in place on a GPU, since a graph reads them where they are."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)
        else:
            self._packed.clear()


#: The packed weights of the step that runs.
_packed: ContextVar[PackedWeights | None] = ContextVar("_packed", default=None)


@contextmanager
def packed_weights(packed: PackedWeights) -> Iterator[None]:
    """Inside, products take their weights from `packed`."""
    token = _packed.set(packed)
    try:
        yield
    finally:
        _packed.reset(token)


def _product(
    states: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], transposed: bool
) -> torch.Tensor:
    """states [R, I] @ weight [I, O] + bias [O], side by side for all weights and their biases: see `PackedWeights.of`."""
    packed = _packed.get()
    packed = PackedWeights() if packed is None else packed
    weight, bias = packed.of(weights, biases, transposed, states.shape[0])
    if states.device.type == "cpu":
        found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
        return found
    return linear(states, weight, bias)


def _shape(
    states: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], transposed: bool
) -> torch.Tensor:
    return states.new_empty(states.shape[0], sum(weight.shape[0 if transposed else 1] for weight in weights))


for _device in ("CPU", "CUDA"):
    _library.impl("packed_product", _product, _device)
torch.library.register_fake("bon::packed_product", _shape, lib=_library)
#: `_product`, as an operation of torch's that a compiled step may hold.
product = torch.ops.bon.packed_product.default
