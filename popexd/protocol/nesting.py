"""How deep JSON text is nested, told from its brackets: before anything of it is built."""

from __future__ import annotations

import re

MAX_DEPTH = 32
"""More than any payload of ours needs, and far from what a recursive reader can stand."""

# Strings are skipped whole, an unfinished one to the end: no reader will get past it either.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def nested_deeper(text: bytes, limit: int = MAX_DEPTH) -> bool:
    """Tell whether arrays and objects are nested more than `limit` deep; linear in the size of the text."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    depth = 0
    for token in _TOKEN.finditer(text):
        sign = text[token.start()]
        if sign in b"[{":
            depth += 1
            if depth > limit:
                return True
        elif sign in b"]}":
            depth -= 1
    return False
