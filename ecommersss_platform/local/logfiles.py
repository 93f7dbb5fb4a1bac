"""The log files of the platform's processes."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def size(log: Path) -> int:
    """Return the size of the log in bytes, 0 if there is no such file."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def tail(log: Path, start: int = 0, lines: int = 6) -> list[str]:
    """Return the last non-empty lines of the log, none from before byte `start`."""
    end = size(log)
    try:
        with log.open("rb") as file:
            # A log that is shorter than that has been rotated since.
            file.seek(max(start if start <= end else 0, end - 8_000))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def quoted_tail(log: Path, start: int = 0, lines: int = 6) -> str:
    """Return the last lines of the log, introduced and indented for a message, or "" if there are none."""
    last = tail(log, start, lines)
    return f" The end of {shown(log)}:" + "".join(f"\n    {line}" for line in last) if last else ""


def rotate(log: Path, limit: int = 10_000_000) -> None:
    """Copy a log of more than `limit` bytes to `<name>.1` and empty it.

    The log is not renamed, because the process that writes it keeps it open (for appending, so it continues
    at the beginning). What it writes between the two steps is lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > limit:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)


def shown(path: Path) -> str:
    """Return the path for people: relative if it lies below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
