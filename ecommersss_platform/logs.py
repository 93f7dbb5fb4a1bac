"""Logs of the platform's processes: one line an event, on standard error, instants in UTC.

Lines are text for people or JSON objects for programs. Neither holds personal data: modules log positions,
counts, and names of rules and reasons, but never the content of a line or a row.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
import types
from datetime import UTC, datetime
from typing import Any, Literal

from ecommersss_platform.terminal import visible, visible_json

LogFormat = Literal["text", "json"]

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}


class _Discreet(logging.Formatter):
    """A formatter that shows only the first line of an error: PostgreSQL quotes rows in the others.

    Control characters are spelled out: logs are read on terminals, too.
    """

    def formatException(self, ei: Any) -> str:
        whole = traceback.TracebackException(*ei)
        parts: list[str] = []
        seen: set[int] = set()
        error: traceback.TracebackException | None = whole
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            text = "".join(error.format_exception_only()).partition("\n")[0]
            parts.append("".join(error.stack.format()) + text)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\ncaused by:\n".join(parts)

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


class JsonFormatter(_Discreet):
    """A formatter for one JSON object a record: time, level, logger, message, `extra` fields, exception.

    `time` is RFC 3339 in UTC with milliseconds.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return visible_json(json.dumps(fields, default=str, ensure_ascii=False))


def configure_logging(style: LogFormat = "text", level: int = logging.INFO) -> None:
    """Send log records to standard error. Only commands call this, never library code."""
    formatter: logging.Formatter
    if style == "json":
        formatter = JsonFormatter()
    else:
        formatter = _Discreet(
            "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.excepthook = _log_uncaught
    # Alembic logs every step at INFO.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def structured() -> bool:
    """Return whether this process logs JSON, so that its last message should be JSON too."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def logs_uncaught() -> bool:
    """Return whether this process logs, with its traceback, an error that nothing catches."""
    return sys.excepthook is _log_uncaught


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    logging.getLogger("ecommersss").critical("unexpected error", exc_info=(kind, error, trace))
