"""Known problems as sentences for people; every other error is a bug and keeps its traceback."""

from __future__ import annotations


def known_problem(error: BaseException) -> str | None:
    """Return what is wrong and what to do next, or None for an error that may be a bug."""
    import psycopg2
    import sqlalchemy.exc
    from pydantic import ValidationError

    from streaming.errors import PlatformError

    if isinstance(error, sqlalchemy.exc.OperationalError) and error.orig is not None:
        error = error.orig
    if isinstance(error, ValidationError):
        lines = [
            f"ECOMMERSSS_{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            f" (got {problem['input']!r})"
            for problem in error.errors()
        ]
        return "wrong settings\n  " + "\n  ".join(lines)
    if isinstance(error, psycopg2.OperationalError):
        return f"PostgreSQL: {str(error).strip()}"
    return str(error) if isinstance(error, PlatformError) else None
