"""Meters of what models compute and read: FLOPs of their matrix products, tokens that a reward reads.

FLOPs are 2 a weight and token forward, 6 in training (Kaplan et al. 2020). Weights are those that multiply: embeddings that
are looked up cost nothing, the same embeddings as an output layer do. The products of attention scores are left out (here they
are a hundredth of the rest), and so is everything that is not a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from bon import Candidates

Array = NDArray[np.float64]


def _products(model: nn.Module) -> list[nn.Module]:
    """The modules of a model that multiply by a matrix, each once."""
    return [module for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]


def flops_per_token(model: nn.Module) -> int:
    """FLOPs of one token through the model, forward."""
    return 2 * sum(int(weight.numel()) for weight in (cast(torch.Tensor, module.weight) for module in _products(model)))


def models_of(reward: Any) -> list[nn.Module]:
    """The model behind a reward, where there is one."""
    model = getattr(reward, "model", None)
    return [model] if isinstance(model, nn.Module) else []


def scored_tokens(pool: Candidates, reward: Any) -> Array:
    """Tokens that a reward reads of every candidate, prompt and response as one text: [P, N]; a function reads none."""
    if not hasattr(reward, "count_tokens"):
        return np.zeros(pool.lengths.shape)
    counts = reward.count_tokens([text for row in pool.full_texts for text in row])
    return np.array(counts, dtype=np.float64).reshape(pool.lengths.shape)


class RewardMeter:
    """Counts the tokens that a reward reads."""

    def __init__(self, reward: Any) -> None:
        self._reward, self._before = reward, 0
        self.lap()

    def lap(self) -> int:
        """Tokens since it was last asked; a function reads none."""
        read = int(getattr(self._reward, "tokens_read", 0))
        tokens, self._before = read - self._before, read
        return tokens


class FlopMeter:
    """Counts the FLOPs of the matrix products of some models while it is open; with gradients a product counts three times.

    It counts what is computed: positions that hold padding too.

    Attributes:
        flops: so far.
    """

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self.flops = 0
        self._modules = list(dict.fromkeys(module for model in models for module in _products(model)))
        self._handles: list[Any] = []

    def __enter__(self) -> FlopMeter:
        self._handles = [module.register_forward_hook(self._count) for module in self._modules]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def lap(self) -> int:
        """FLOPs since it was last asked."""
        flops, self.flops = self.flops, 0
        return flops

    def _count(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        tokens = output.numel() // output.shape[-1]
        self.flops += (6 if output.requires_grad else 2) * module.weight.numel() * tokens
