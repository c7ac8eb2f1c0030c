"""What every command shares: paths that start at the repository, and errors that are one line and exit code 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class UserError(Exception):
    """Something that the user can mend; the message names the key, the value and what is allowed."""


def located(path: str | Path) -> Path:
    """A path from a configuration: relative ones start at the repository, wherever the command was started."""
    return REPOSITORY / Path(path).expanduser()


def command(main: Callable[[], None]) -> None:
    """Run a Hydra entry point. What the user can mend ends in one line on stderr and exit code 2."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and leaving with its own exit code
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(_readable(error))
    except KeyboardInterrupt:
        print("\nstopped: finished candidates and checkpoints are kept, the same command goes on from them", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def _readable(error: Exception) -> str:
    """A Hydra or OmegaConf error as one line."""
    cause: BaseException = error
    while isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    text = str(cause) if str(cause) else str(error)
    text = re.sub(r"\n\s*(full_key|object_type|reference_type)", r" (\1", text)
    return re.sub(r"\s+", " ", text).strip()
