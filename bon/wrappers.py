"""The transformers model inside the wrappers that users put around one."""

from __future__ import annotations

from typing import Any

#: Where TRL's value head and parallel training keep the model.
_INSIDE = ("pretrained_model", "module")


def unwrapped(model: Any) -> Any:
    """Return the model to draw from: inside TRL's value head, parallel training, torch.compile, and PEFT.

    PEFT writes LoRA and its kin into the layers of the base model, so that base model, adapter included, is what to call.

    Raises:
        ValueError: an adapter that puts virtual tokens in front (prompt, prefix or P-tuning): PEFT gives a batch of prompts
            of different lengths wrong positions there.
    """
    model = _without_shells(model)
    adapter = getattr(model, "active_peft_config", None)
    if adapter is None:
        return model
    if adapter.is_prompt_learning:
        raise ValueError(
            f"cannot draw from a PEFT model with virtual tokens ({adapter.peft_type}): use an adapter in the layers"
        )
    return _without_shells(model.get_base_model())


def is_adapted(model: Any) -> bool:
    """Whether the model is given with PEFT's wrapper around it, bare or inside others."""
    return getattr(_without_shells(model), "active_peft_config", None) is not None


def _without_shells(model: Any) -> Any:
    while True:
        parts = getattr(model, "_modules", {})
        # A model of transformers has a config, PEFT's wrapper finds names of what it wraps: neither is a shell.
        shell = not hasattr(model, "active_peft_config") and not hasattr(getattr(model, "config", None), "get_text_config")
        shell = shell or "v_head" in parts  # TRL's wrapper shows the config of the model inside
        names = ("_orig_mod", *_INSIDE) if shell else ("_orig_mod",)  # torch.compile's wrapper finds such names too
        inner = next((parts[name] for name in names if parts.get(name) is not None), None)
        if inner is None:
            return model
        model = inner
