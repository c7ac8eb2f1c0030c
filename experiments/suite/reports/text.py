"""Lines of the width of this repository's pages."""

from __future__ import annotations

import textwrap


def wrapped(text: str, indent: str = "") -> str:
    """Return text in lines of at most 127 characters; code and numbers stay whole."""
    return textwrap.fill(text, 127, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
