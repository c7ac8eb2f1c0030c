"""Texts as they are compared and split: plain, and by a number of their own."""

from __future__ import annotations

import hashlib
import html
import re


def clean(text: str) -> str:
    """Plain text of a raw IMDB review: line-break tags and runs of white space become one space."""
    return re.sub(r"\s+", " ", re.sub(r"<br\s*/?>", " ", html.unescape(text))).strip()


def text_key(text: str) -> float:
    """A uniform number in [0, 1) from the cleaned, lower-cased text: the same for duplicates, on every machine."""
    digest = hashlib.sha256(clean(text).lower().encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
