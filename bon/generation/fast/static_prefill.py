"""The pass over prompts of a fixed shape."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, DynamicCache

from bon.generation.fast.cuda_graph import recorded
from bon.generation.fast.fused_norms import one_kernel_attention
from bon.generation.fast.views import fused_view
from bon.model_facts import last_logits_only


class FixedPrompts:
    """The prompts of a batch through the model, B of L tokens with their padding."""

    def __init__(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> None:
        self.model = fused_view(model)
        self._closed = torch.finfo(dtype).min
        self._ids, self._positions = ids.clone(), positions.clone()
        prompts, width = ids.shape
        self._before = torch.ones((width, width), dtype=torch.bool, device=ids.device).tril()
        self._itself = torch.eye(width, dtype=torch.bool, device=ids.device)
        self._mask = torch.empty((prompts, 1, width, width), dtype=dtype, device=ids.device)
        self._load(ids, mask, positions)
        self._graph: Any = None
        self._result: Any = None

    def _load(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> None:
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        # Padding sees itself: with nothing to see at all it would become NaN.
        seen = (self._before & mask.bool()[:, None, None, :]) | self._itself
        self._mask.fill_(self._closed).masked_fill_(seen, 0.0)

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Cache and logits [B, V] of prompts of this shape; they hold until the next call."""
        self._load(ids, mask, positions)
        if self._graph is None:
            self._result = self._forward()
        else:
            self._graph.replay()
        cache, logits = self._result
        return Cache(layers=list(cache.layers)), logits

    def capture(self) -> None:
        """Record the pass, for `__call__` to replay; errors as of `recorded`."""
        self._graph, self._result, _ = recorded(self._forward, self._ids.device)

    def _forward(self) -> tuple[Any, torch.Tensor]:
        with one_kernel_attention():
            output = self.model(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=DynamicCache(config=self.model.config),
                use_cache=True,
                return_dict=True,
                **last_logits_only(self.model),
            )
        return output.past_key_values, output.logits[:, -1]
