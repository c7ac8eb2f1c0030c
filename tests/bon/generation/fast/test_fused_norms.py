"""Fewer kernels compute what transformers computes."""

import pytest
import torch
import transformers

import bon.generation.fast.fused_norms


@pytest.mark.parametrize("name", sorted(bon.generation.fast.fused_norms._RMS_NORMS))
def test_norms_are_those_of_transformers(name):
    family = name.removesuffix("RMSNorm")
    norm = getattr(getattr(transformers.models, family.lower()), f"modeling_{family.lower()}").__dict__[name](16, eps=1e-3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
        states = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(bon.generation.fast.fused_norms._fused_norm(norm, states), norm(states))
