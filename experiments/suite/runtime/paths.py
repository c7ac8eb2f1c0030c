"""Paths: those of a configuration start at the repository, wherever a command was started."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def located(path: str | Path) -> Path:
    """A path from a configuration: relative ones start at the repository, wherever the command was started."""
    return REPOSITORY / Path(path).expanduser()


def found(path: str | Path) -> Path:
    """A file or folder of the user's: from the working directory where it is there, else as `located`."""
    here = Path.cwd() / Path(path).expanduser()
    return here if here.exists() else located(path)


def share_path() -> None:
    """Processes that this one starts, here or through a scheduler, find `bon` and `suite` where this one has them."""
    places = [str(REPOSITORY), str(REPOSITORY / "experiments")]
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([*places, *(place for place in known if place and place not in places)])


def shown_path(path: str) -> str:
    """A path for people and manifests: inside the repository without what stands before it."""
    return path.removeprefix(f"{REPOSITORY}/")
