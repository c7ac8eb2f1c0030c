"""Which engine draws: none for this process; the others are imported only when they are named."""

from __future__ import annotations

from suite.config.engine import EngineConfig
from suite.pools.maker import Engine


def chosen_engine(config: EngineConfig) -> Engine | None:
    """The engine of a checked configuration; None where this process draws."""
    if config.name == "local":
        return None
    if config.name == "vllm":
        from suite.pools.vllm_engine import VLLMEngine

        return VLLMEngine(config)
    from suite.pools.ray_engine import RayEngine

    return RayEngine(config)
