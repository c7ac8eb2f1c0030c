"""The studies behind the README: what each draws, and how its numbers come from what it has stored."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast

from suite.config.studies import ReproduceConfig


class StudyModule(Protocol):
    """Interface of the module of a study."""

    def run(self, config: ReproduceConfig, folder: Path) -> None:
        """Draw and train whatever the cache lacks, and store it in the folder."""

    def rebuild(self, folder: Path) -> None:
        """Write the tables of numbers in the folder anew from what it stores, without a model."""


def study(name: str) -> StudyModule:
    """The module of a study."""
    return cast(StudyModule, importlib.import_module(f"suite.studies.{name}"))
