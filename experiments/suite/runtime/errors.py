"""Errors that end a command in one line."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend; the message names the key, the value and what is allowed."""


def one_line(error: BaseException) -> str:
    """Return the first line of what an error says; the name of its class where it says nothing.

    >>> one_line(ValueError("too small\\nsee above")), one_line(KeyError())
    ('too small', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
