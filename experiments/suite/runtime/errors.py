"""Errors that end a command in one line."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend; the message names the key, the value and what is allowed."""
