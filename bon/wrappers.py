"""The transformers model inside the wrappers that users put around one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def unwrapped(model: Any) -> Any:
    """The model to draw from: inside TRL's value head, and inside a PEFT model whose adapter changes layers in place.

    TRL keeps the model as `pretrained_model`. PEFT writes LoRA and its kin into the layers of the base model, so that base
    model, adapter included, is what to call.

    Raises:
        ValueError: an adapter that puts virtual tokens in front (prompt, prefix or P-tuning): PEFT gives a batch of prompts
            of different lengths wrong positions there.
    """
    model = getattr(model, "pretrained_model", model)
    adapter = getattr(model, "active_peft_config", None)
    if adapter is None:
        return model
    if adapter.is_prompt_learning:
        raise ValueError(
            f"cannot draw from a PEFT model with virtual tokens ({adapter.peft_type}): use an adapter in the layers"
        )
    return model.get_base_model()


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Dropout off inside, and as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
