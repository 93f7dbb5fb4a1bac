"""Rejected lines: showing them, exporting them, and publishing them again."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from streaming.business_days import JAKARTA
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.topics import Publisher

SHOWN_CHARACTERS = 300
"""Most of a raw line that a list shows; the whole line is in `rejected_orders.raw`."""

_CHUNK = 1_000
_ARRIVED = """
    retried_at IS NULL AND missing_id IS NOT NULL AND CASE reason
        WHEN 'unknown_user' THEN EXISTS (SELECT FROM users WHERE id = missing_id)
        WHEN 'unknown_product' THEN EXISTS (SELECT FROM products WHERE id = missing_id)
    END
"""


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that was no valid order, as it is kept: instants are aware."""

    position: int
    raw: bytes
    reason: str
    detail: str
    rejected_at: datetime
    retried_at: datetime | None
    missing_id: int | None = None
    """The user or product that was not there, for the reasons unknown_user and unknown_product."""

    def as_row(self) -> dict[str, int | str | None]:
        """What a list shows: times in Asia/Jakarta, the raw line safe for a terminal."""
        return {
            "position": self.position,
            "reason": self.reason,
            "detail": self.detail,
            "rejected_at": _shown_time(self.rejected_at),
            "retried_at": _shown_time(self.retried_at) if self.retried_at else None,
            "raw": shown(self.raw),
        }

    def as_export(self) -> dict[str, int | str | None]:
        """What an export holds, nothing left out: see `export_rejected`."""
        text: str | None = None
        with suppress(UnicodeDecodeError):
            text = self.raw.decode()
        return {
            "position": self.position,
            "reason": self.reason,
            "detail": self.detail,
            "missing_id": self.missing_id,
            "rejected_at": _exact_time(self.rejected_at),
            "retried_at": _exact_time(self.retried_at) if self.retried_at else None,
            "text": text,
            "raw_base64": b64encode(self.raw).decode(),
        }


_SELECT = """
    SELECT position, raw, reason, detail, rejected_at, retried_at, missing_id FROM rejected_orders
    ORDER BY position
"""


def list_rejected(url: str, limit: int = 50) -> list[RejectedLine]:
    """The rejected lines, newest first, `limit` at most."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} DESC LIMIT %s", (limit,))
        return list(_lines(cursor))


def export_rejected(url: str, file: Path) -> int:
    """Write every rejected line to a JSONL file, oldest first, and return how many there are.

    A line of the file is a JSON object:

    | field | what |
    |---|---|
    | position | the line's place in the topic |
    | reason, detail | a code of `streaming.orders.REASONS`, and which value broke which rule |
    | missing_id | the user or product that was not there, or null |
    | rejected_at, retried_at | RFC 3339 with microseconds, Asia/Jakarta; retried_at is null before a retry |
    | text | the raw line as text if it is UTF-8, else null |
    | raw_base64 | the raw line, byte for byte, in base64 (RFC 4648); of one that is too long its beginning |

    All lines are of one moment, and memory does not grow with them. The file appears when it is whole, and
    only its owner can read it: lines may hold anything that somebody sent. Raises `PlatformError` when it
    cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    count = 0
    try:
        with (
            os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out,
            closing(connect(url)) as connection,
            connection.cursor(name="export_rejected") as cursor,
        ):
            cursor.itersize = _CHUNK
            cursor.execute(_SELECT)
            for line in _lines(cursor):
                # ASCII: what a terminal or an editor would take for a command stays an escape.
                out.write(json.dumps(line.as_export()) + "\n")
                count += 1
        temporary.replace(file)
    except OSError as error:
        raise PlatformError(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _lines(cursor: Cursor) -> Iterator[RejectedLine]:
    return (RejectedLine(position, bytes(raw), *rest) for position, raw, *rest in cursor)


def retry_rejected(url: str, topic: Publisher, positions: Sequence[int] | None = None) -> int:
    """Publish rejected lines again, at new positions, and return how many.

    `positions` names them, retried before or not; without it, all that were never retried. A running
    consumer takes them as new lines: it stores them, or rejects them again under their new positions.

    Raises `PlatformError`, before anything is published, when a position was never rejected.
    """
    with closing(connect(url)) as connection:
        with connection, connection.cursor() as cursor:
            if positions is None:
                # What comes back rejected while this runs has a later position: it is not tried again.
                cursor.execute("SELECT position FROM rejected_orders WHERE retried_at IS NULL")
                positions = [position for (position,) in cursor]
            else:
                cursor.execute(
                    "SELECT unnest(%s::bigint[]) EXCEPT SELECT position FROM rejected_orders",
                    (list(positions),),
                )
                if unknown := sorted(position for (position,) in cursor):
                    raise PlatformError(
                        f"no rejected line at position {', '.join(map(str, unknown))}: nothing was published;"
                        " `ecommersss rejected list` shows those that there are"
                    )
        ordered = sorted(set(positions))
        return sum(
            _publish_again(connection, topic, "position = ANY(%s)", (ordered[i : i + _CHUNK],))
            for i in range(0, len(ordered), _CHUNK)
        )


def retry_arrived(connection: Connection, topic: Publisher) -> int:
    """Publish lines again whose user or product was unknown and is there by now; return how many.

    At most a thousand at a time.
    """
    return _publish_again(connection, topic, _ARRIVED, ())


def _publish_again(
    connection: Connection, topic: Publisher, condition: str, parameters: tuple[object, ...]
) -> int:
    """Publish first, then note it: a crash in between publishes twice, which an order's id makes harmless.

    The row locks keep a consumer and a person from publishing the same line at the same time.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            f"SELECT position, raw FROM rejected_orders WHERE {condition}"  # noqa: S608
            f" ORDER BY position LIMIT {_CHUNK} FOR UPDATE SKIP LOCKED",
            parameters,
        )
        rows = cursor.fetchall()
        if rows:
            topic.publish([bytes(raw) for _, raw in rows])
            cursor.execute(
                "UPDATE rejected_orders SET retried_at = now() WHERE position = ANY(%s)",
                ([position for position, _ in rows],),
            )
    return len(rows)


def shown(raw: bytes) -> str:
    """The line as text that is safe on a terminal: anything unprintable is escaped, a long line cut."""
    text = raw[: 4 * SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(safe) <= SHOWN_CHARACTERS and len(raw) <= 4 * SHOWN_CHARACTERS:
        return safe
    return f"{safe[:SHOWN_CHARACTERS]}… ({len(raw):,} bytes)"


def _exact_time(instant: datetime) -> str:
    return instant.astimezone(JAKARTA).isoformat(timespec="microseconds")


def _shown_time(instant: datetime) -> str:
    return instant.astimezone(JAKARTA).isoformat(timespec="seconds")
