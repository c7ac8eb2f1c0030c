"""The mathematics of transformers' models in fewer kernels, for steps that are not compiled."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import rms_norm

from bon.generation.fast.attention import single_queries

#: Classes that compute weight * x / sqrt(mean(x^2) + eps), in eight kernels where torch has one.
_RMS_NORMS = frozenset({"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm", "Phi3RMSNorm"})


@contextmanager
def fewer_kernels(model: Any) -> Iterator[None]:
    """The same mathematics in fewer kernels; results agree to rounding."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
        stack.enter_context(single_queries())
        for module in model.modules():
            if type(module).__name__ in _RMS_NORMS and "forward" not in vars(module):
                module.forward = functools.partial(_fused_norm, module)
                stack.callback(delattr, module, "forward")
        yield


def _fused_norm(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    return rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)
