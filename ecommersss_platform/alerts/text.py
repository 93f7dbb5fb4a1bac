"""The text of alerts: short, without credentials and without personal data."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
_PASSWORD = re.compile(r"(?i)(password|passwd|secret|token)(\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)")

_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")

LONGEST_TEXT = 1000
"""The most characters of a summary."""

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


def cause(error: str | None) -> str:
    """Return the first line of the root cause of an error as Dagster stores it, without credentials.

    Empty without an error. The other lines are left out: PostgreSQL quotes rows in them.
    """
    found = json.loads(error or "null", object_hook=lambda fields: SimpleNamespace(**fields))
    return without_secrets(root_message(found).partition("\n")[0])


def clean(text: str) -> str:
    """Return text as it may leave the machine: one line, short, without credentials and e-mail addresses."""
    line = " ".join(_ADDRESS.sub("***@***", without_secrets(text)).split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def covers(text: str, day: str) -> bool:
    """Return whether the day, or the range of days, that a text has is or holds this one."""
    days = re.findall(r"\d{4}-\d\d-\d\d", text)
    return bool(days) and days[0] <= day <= days[-1]


def duration(seconds: float) -> str:
    """Return a duration for people, in its two largest units at most: "14 min", "2 h 5 min", "3 d 4 h"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((index for index, (count, _) in enumerate(parts) if count), 3)
    shown = parts[first : first + 2] if first < 2 else parts[first : first + 1]
    return " ".join(f"{count} {unit}" for count, unit in shown if count or unit == "s")
