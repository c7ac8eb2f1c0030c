"""Views of a model that compute the same faster."""

from __future__ import annotations

from typing import Any

from bon.generation.fast.attention import use_single_query_attention
from bon.generation.fast.fused_norms import use_fused_norms
from bon.model_view import caller_of, view_of


def sampling_view(model: Any, hooks: bool = True) -> Any:
    """Return a view of a model with the attention of single queries; of such a view, itself.

    Args:
        model: the caller's, or a view of it.
        hooks: whether forward hooks run.
    """
    view = view_of(model, hooks=hooks)
    if view is not model:
        use_single_query_attention(view)
        for module in view.modules():
            # Rows that have ended go on with padding, which nobody looks at; looking for it makes a GPU wait in every step.
            if hasattr(module, "warn_if_padding_and_no_attention_mask"):
                module.warn_if_padding_and_no_attention_mask = _nothing
    return view


def _nothing(*_: Any) -> None:
    pass


def fused_view(model: Any) -> Any:
    """Return another view of the same model, with fused norms too: for steps that are not compiled."""
    view = sampling_view(caller_of(model))
    use_fused_norms(view)
    return view
