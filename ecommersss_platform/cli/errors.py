"""Problems that a user can cause, as sentences; any other error is a bug."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg2
    from pydantic import ValidationError

_DISK = {
    errno.ENOSPC: "free space on the disk and run the command again",
    errno.EDQUOT: "free space within your quota and run the command again",
    errno.EROFS: "choose a place that can be written to; ECOMMERSSS_HOME names the platform's",
    errno.EACCES: "run as the user who owns it, or set ECOMMERSSS_HOME to a directory of your own",
    errno.EPERM: "run as the user who owns it, or set ECOMMERSSS_HOME to a directory of your own",
}


_LIBRARIES = {
    "google.api_core.exceptions": ("GoogleAPIError", "Google Cloud"),
    "google.auth.exceptions": ("GoogleAuthError", "Google Cloud"),
    "duckdb": ("OperationalError", "DuckDB"),
}
"""By module: the base class of errors that the surroundings of a library cause, and the library's name."""


def known_problem(error: BaseException) -> str | None:
    """Return what is wrong and what to do next, or None for an error that may be a bug."""
    import psycopg2
    from pydantic import ValidationError

    from streaming.errors import PlatformError

    # A library that was never imported raised nothing, and importing it here would take a second.
    alchemy = sys.modules.get("sqlalchemy.exc")
    if alchemy and isinstance(error, alchemy.DBAPIError) and error.orig:
        error = error.orig
    match error:
        case PlatformError():
            return str(error)
        case ValidationError() if error.title == "Settings":
            return _wrong_settings(error)
        case psycopg2.Error():
            return _database_problem(error)
        case UnicodeEncodeError() if error.reason == "surrogates not allowed":
            return f"{error.object[:100]!r} is not text in UTF-8: write it in another way"
        case UnicodeDecodeError():
            return f"a file is not text in UTF-8: {error.reason} at byte {error.start}. Save it as UTF-8"
        case OSError() if error.errno is not None:
            where = f"{error.filename}: " if error.filename else ""
            advice = _DISK.get(error.errno)
            return f"{where}{error.strerror}" + (f"; {advice}" if advice else "")
    for module, (base, name) in _LIBRARIES.items():
        if (library := sys.modules.get(module)) and isinstance(error, getattr(library, base)):
            return f"{name}: {error}"
    return None


def _wrong_settings(error: ValidationError) -> str:
    """Name each wrong setting, with its value unless that is a secret."""
    from ecommersss_platform.settings import SECRETS

    lines = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"].startswith("date_from"):
            message = "is not a day: write it as YYYY-MM-DD"
        if not problem["loc"]:
            lines.append(message)
            continue
        name = str(problem["loc"][0])
        value = "" if name in SECRETS else f" (got {problem['input']!r})"
        lines.append(f"ECOMMERSSS_{name.upper()}: {message}{value}")
    return "wrong settings\n  " + "\n  ".join(lines)


def _database_problem(error: psycopg2.Error) -> str | None:
    """Return what a server refuses, or None for a statement of ours that it cannot understand."""
    from psycopg2 import errors

    message = str(error).strip()
    match error:
        case errors.InsufficientPrivilege():
            return f"PostgreSQL: {message}. Grant the role of the URL that right, or name another role"
        case errors.ReadOnlySqlTransaction():
            return f"PostgreSQL: {message}. Name the primary server in the URL, not a replica"
        case errors.UndefinedTable() | errors.UndefinedColumn():
            return f"PostgreSQL: {message}. Bring the schema up to date with `ecommersss db init`"
        case errors.DataError() | errors.OperationalError():
            return f"PostgreSQL: {message}"
    return None
