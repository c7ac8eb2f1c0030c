"""The Ray cluster that an engine runs on: one that is there already, or a private one that ends with the work."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import ray

from suite.config.engine import EngineConfig
from suite.runtime.errors import UserError
from suite.runtime.paths import REPOSITORY, share_path

#: Seconds that a cluster may take to accept a connection.
_PATIENCE = 5.0


@contextlib.contextmanager
def cluster(config: EngineConfig) -> Iterator[None]:
    """Ray, connected. A connection that the caller has is used and left open; one that is made here is closed.

    Raises:
        UserError: no cluster answers at `engine.address`, or it has fewer cores or GPUs than the stages ask for.
    """
    opened = not ray.is_initialized()
    if opened:
        _open(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray warns of its own defaults
        context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False  # the suite has a bar of its own
    logger.setLevel(logging.ERROR)
    try:
        _check_room(config)
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])
        if opened:
            ray.shutdown()


def _open(config: EngineConfig) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the actors are the work, not something beside it
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address is None:
        share_path()
        ray.init(address="local", include_dashboard=False, **quiet)
        return
    _check_answers(config.address)
    modules = {"py_modules": [str(REPOSITORY / "bon"), str(REPOSITORY / "experiments" / "suite")]}
    try:
        ray.init(address=config.address, runtime_env=modules, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(config.address, str(error)) from None


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes; a closed port is known at once."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"engine.address={address} is not allowed: must be HOST:PORT, ray://HOST:PORT, auto or null")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, reason: str) -> UserError:
    told = (reason.strip().splitlines() or ["no answer"])[0]
    return UserError(
        f"engine.address={address}: no Ray cluster answers there ({told}); start one (ray start --head) or set "
        "engine.address=null for a private one"
    )


def _check_room(config: EngineConfig) -> None:
    """Actors that find no room would be waited for without end."""
    has = ray.cluster_resources()
    for resource, name in (("cpus", "CPU"), ("gpus", "GPU")):
        needed = sum(stage.actors * getattr(stage, resource) for stage in (config.generation, config.scoring))
        if needed > has.get(name, 0) + 1e-9:
            raise UserError(
                f"engine.generation and engine.scoring ask for {needed:g} {name}s (actors x {resource}), the Ray cluster has "
                f"{has.get(name, 0):g}: lower them or add machines"
            )
