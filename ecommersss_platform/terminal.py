"""Text from strangers on a terminal: shown, never obeyed."""

from __future__ import annotations

import re

# The control characters of both sets, and those that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_C1 = re.compile("[\x7f-\x9f]")


def visible(text: str) -> str:
    """Return the text with control characters spelled out, so that data cannot steer a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_json(text: str) -> str:
    """Return the same JSON with those control characters escaped that JSON allows in its strings."""
    return _C1.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
