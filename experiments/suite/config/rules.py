"""Rules that a configuration must keep, and the message of the first that it breaks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import Any

from suite.runtime.errors import UserError
from suite.runtime.paths import located

#: What must hold, the key, its value, and what is allowed.
Rule = tuple[bool, str, Any, str]


def refuse(rules: Iterable[Rule], where: str = "") -> None:
    """Refuse the first broken rule.

    Args:
        where: what the rules hold for, if not always; follows "is not allowed".

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    for holds, key, value, allowed in rules:
        if not holds:
            raise UserError(f"{key}={value} is not allowed{where}: must be {allowed}")


def check_writable(key: str, value: str) -> None:
    """Refuse a folder that can neither be written to nor made: it is tried, and nothing is left behind.

    Permissions alone do not tell: root has all of them on a file system that takes no files.

    Raises:
        UserError: names the key and what is in the way.
    """
    folder = located(value)
    existing = folder
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if existing == folder:
            tempfile.TemporaryFile(dir=existing).close()
        else:
            os.rmdir(tempfile.mkdtemp(dir=existing, prefix=".writable-"))
    except OSError as error:
        reason = f"{existing} is not a folder this user can write to ({error.strerror})"
        raise UserError(f"{key}={value} cannot be written: {reason}") from None
