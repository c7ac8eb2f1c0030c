"""Engines that draw: none for this process; the others are imported only when they are named."""

from __future__ import annotations

import importlib.util

from suite.config.engine import EngineConfig
from suite.pools.recipe import Engine
from suite.pools.shards import open_shards
from suite.runtime.errors import UserError

#: Package -> itself, and the extra that installs it.
_EXTRAS = {"ray": ("ray", "scale"), "vllm": ("vllm", "vllm")}


def chosen_engine(config: EngineConfig) -> Engine | None:
    """The engine of a checked configuration; None where this process draws."""
    if config.name == "local":
        return None
    if config.name == "vllm":
        from suite.pools.vllm_engine import VLLMEngine

        return VLLMEngine(config)
    from suite.pools.ray_engine import RayEngine

    return RayEngine(config)


def check_engine(config: EngineConfig) -> None:
    """Refuse an engine or a place of shards whose packages are not installed, before anything is loaded.

    Raises:
        UserError: names what is not installed.
    """
    needed = {"local": [], "ray": ["ray"], "vllm": ["ray", "vllm"]}[config.name]
    for package, extra in (_EXTRAS[name] for name in needed):
        if importlib.util.find_spec(package) is None:
            raise UserError(f'engine={config.name} needs {package}, which is not installed; run: pip install -e ".[{extra}]"')
    if config.shards is not None:
        open_shards(config.shards)
