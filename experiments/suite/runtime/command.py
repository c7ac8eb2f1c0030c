"""Shared parts of every command: paths that start at the repository, and errors that are one line and exit code 2."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from types import FrameType
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from suite.runtime.errors import UserError
from suite.runtime.paths import share_path
from suite.runtime.sweeps import repeated

#: Seconds that another process than the first keeps what is wrong to itself: the first has most likely met the same.
_GRACE = 30.0


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it kills: a run ends as if it was interrupted, and writes out what it has."""


def job(main: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Decorates the function under `hydra.main`: what the user can mend ends there, before Hydra adds lines of its own."""

    @functools.wraps(main)
    def reported(config: DictConfig) -> None:
        try:
            main(config)
        except UserError as error:
            fail(str(error))

    return reported


def command(main: Callable[[], None], several: bool = False, meanings: Callable[[], str] | None = None) -> None:
    """Run a Hydra entry point. A configuration that Hydra refuses ends in one line on stderr and exit code 2.

    Args:
        main: the entry point.
        several: whether it knows what to do in several processes (`suite.runtime.distributed`).
        meanings: what --help says of every key, below what Hydra says.
    """
    if not several and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        fail("this command runs in one process: start it without torchrun; experiments/run.py takes several")
    if wrong := repeated(sys.argv[1:]):
        fail(wrong)
    share_path()
    # Names the folder of a sweep's jobs: two that start in one second have two.
    os.environ.setdefault("BON_LAUNCH", f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid.uuid4().hex[:8]}")
    before = signal.signal(signal.SIGTERM, _terminate)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and leaving with its own exit code
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        fail(_readable(error))
    except SystemExit as left:
        if meanings and left.code == 0 and not {"--help", "-h"}.isdisjoint(sys.argv[1:]):
            print(f"\nWhat each key means\n{meanings()}")
        raise
    except KeyboardInterrupt as stop:
        if _rank() == 0:
            print(
                "\nstopped: finished candidates and checkpoints are kept, the same command goes on from them", file=sys.stderr
            )
        raise SystemExit(143 if isinstance(stop, Terminated) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def fail(message: str) -> NoReturn:
    """End the command with one line on stderr and exit code 2. Of several processes the first tells it."""
    if rank := _rank():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_GRACE)  # once the first has told, torchrun ends this process
        message = f"process {rank}: {message}"
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def _readable(error: Exception) -> str:
    """A Hydra or OmegaConf error as one line."""
    cause: BaseException = error
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    lines = [line.strip() for line in (str(cause) or str(error)).splitlines()]
    told = [line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type"))]
    return " ".join(told).rstrip(".") + "; --help lists every key and choice"
