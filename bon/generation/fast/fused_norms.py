"""The mathematics of transformers' models in fewer kernels, for steps that are not compiled."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm

#: Classes that compute weight * x / sqrt(mean(x^2) + eps), in eight kernels where torch has one.
_RMS_NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm", "Phi3RMSNorm"})


def use_fused_norms(view: Any) -> None:
    """Give a view of a model these norms; results agree to rounding."""
    for module in view.modules():
        if type(module).__name__ in _RMS_NORMS and "forward" not in vars(module):
            module.forward = functools.partial(_fused_norm, module)


@contextmanager
def one_kernel_attention() -> Iterator[None]:
    """Inside, attention is one kernel where a GPU has one that takes a mask."""
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


def _fused_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)
