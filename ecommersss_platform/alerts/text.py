"""The text of alerts: short, and without credentials."""

from __future__ import annotations

import re
from typing import Any

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
_PASSWORD = re.compile(r"(?i)(password|passwd|secret|token)(\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)")

_CLASS = re.compile(r"\A(?:dagster|ecommersss_platform|streaming)(?:\.\w+)+: ")
"""The class before the message of an error whose message is a sentence."""


def without_secrets(text: str) -> str:
    """Remove what looks like a credential: users in URLs, values of passwords and tokens."""
    return _PASSWORD.sub(r"\1\2***", _CREDENTIALS.sub("***@", text))


def root_message(error: Any) -> str:
    """Return the message of the root cause of a Dagster error, a `SerializableErrorInfo` or None."""
    if error is None:
        return ""
    while error.cause is not None:
        error = error.cause
    return _CLASS.sub("", str(error.message), count=1).strip()
