"""The transformers model inside the wrappers that users put around one."""

from __future__ import annotations

from typing import Any


def unwrapped(model: Any) -> Any:
    """The model to draw from: inside TRL's value head, and inside a PEFT model whose adapter changes layers in place.

    TRL keeps the model as `pretrained_model`. PEFT writes LoRA and its kin into the layers of the base model, so that base
    model, adapter included, is what to call. Prompt and prefix tuning act in PEFT's own forward and stay wrapped.
    """
    model = getattr(model, "pretrained_model", model)
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and not adapter.is_prompt_learning:
        return model.get_base_model()
    return model
