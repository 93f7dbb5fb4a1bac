"""Rejected lines: list them, export them, publish them again, and remove old ones."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from streaming.business_days import local_time
from streaming.chunks import chunks
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.files import new_file
from streaming.topics import Publisher

SHOWN_CHARACTERS = 300
"""How much of a raw line a list shows; `rejected_orders.raw` has the whole line."""

_CHUNK = 1_000
_ARRIVED = """
    retried_at IS NULL AND missing_id IS NOT NULL AND CASE reason
        WHEN 'unknown_user' THEN EXISTS (SELECT FROM users WHERE id = missing_id)
        WHEN 'unknown_product' THEN EXISTS (SELECT FROM products WHERE id = missing_id)
    END
"""


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that was not a valid order, as the database keeps it. Instants are aware."""

    position: int
    raw: bytes
    reason: str
    detail: str
    rejected_at: datetime
    retried_at: datetime | None
    missing_id: int | None = None
    """The user or product that did not exist, for the reasons unknown_user and unknown_product."""

    def as_row(self) -> dict[str, int | str | None]:
        """Return a row for people: times in Asia/Jakarta, and the raw line made safe for a terminal."""
        return {
            "position": self.position,
            "reason": self.reason,
            "detail": self.detail,
            "rejected_at": local_time(self.rejected_at),
            "retried_at": local_time(self.retried_at) if self.retried_at else None,
            "raw": _printable(self.raw),
        }

    def as_export(self) -> dict[str, int | str | None]:
        """Return every field, exactly: see `export_rejected`."""
        text: str | None = None
        with suppress(UnicodeDecodeError):
            text = self.raw.decode()
        return {
            "position": self.position,
            "reason": self.reason,
            "detail": self.detail,
            "missing_id": self.missing_id,
            "rejected_at": local_time(self.rejected_at, "microseconds"),
            "retried_at": local_time(self.retried_at, "microseconds") if self.retried_at else None,
            "text": text,
            "raw_base64": b64encode(self.raw).decode(),
        }


_SELECT = """
    SELECT position, raw, reason, detail, rejected_at, retried_at, missing_id FROM rejected_orders
    ORDER BY position
"""


def list_rejected(url: str, limit: int = 50) -> list[RejectedLine]:
    """Return up to `limit` rejected lines, newest first."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"{_SELECT} DESC LIMIT %s", (limit,))
        return list(_lines(cursor))


def export_rejected(url: str, file: Path) -> int:
    """Write every rejected line to a new JSONL file, oldest first, and return how many.

    Each line of the file is a JSON object:

    | field | what |
    |---|---|
    | position | the line's place in the topic |
    | reason, detail | a code of `streaming.orders.REASONS`, and which value broke which rule |
    | missing_id | the user or product that did not exist, or null |
    | rejected_at, retried_at | RFC 3339 with microseconds, Asia/Jakarta; retried_at is null before a retry |
    | text | the raw line as text if it is UTF-8, else null |
    | raw_base64 | the raw line in base64 (RFC 4648), byte for byte; if it is too long, its beginning |

    The export is a snapshot of one moment, and memory does not grow with it. The file appears once it is
    complete. Only its owner can read it: lines can have any content. Raises `PlatformError`
    if the file exists already or cannot be written.
    """
    count = 0
    with (
        new_file(file) as out,
        closing(connect(url)) as connection,
        connection.cursor(name="export_rejected") as cursor,
    ):
        cursor.itersize = _CHUNK
        cursor.execute(_SELECT)
        for line in _lines(cursor):
            # ASCII keeps control sequences for a terminal or an editor escaped.
            out.write(json.dumps(line.as_export()).encode() + b"\n")
            count += 1
    return count


def _lines(cursor: Cursor) -> Iterator[RejectedLine]:
    return (RejectedLine(position, bytes(raw), *rest) for position, raw, *rest in cursor)


def remove_rejected(connection: Connection, before: datetime) -> int:
    """Remove the lines that were rejected before this instant, and return how many."""
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM rejected_orders WHERE rejected_at < %s", (before,))
        return cursor.rowcount


def retry_rejected(url: str, topic: Publisher, positions: Sequence[int] | None = None) -> int:
    """Publish rejected lines again, at new positions, and return how many.

    `positions` selects them, whether retried before or not; without it, all that were never retried. To a
    consumer they are new lines: it stores them, or rejects them again at their new positions.

    Raises `PlatformError`, before it publishes anything, if no line at one of the positions was rejected.
    """
    with closing(connect(url)) as connection:
        with connection, connection.cursor() as cursor:
            if positions is None:
                # Lines rejected again while this runs have later positions: they are not retried.
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
                        " see `ecommersss rejected list`"
                    )
        return sum(
            _publish_again(connection, topic, "position = ANY(%s)", (chunk,))
            for chunk in chunks(sorted(set(positions)), _CHUNK)
        )


def retry_arrived(connection: Connection, topic: Publisher) -> int:
    """Publish up to a thousand rejected lines whose user or product exists by now; return how many."""
    return _publish_again(connection, topic, _ARRIVED, ())


def _publish_again(
    connection: Connection, topic: Publisher, condition: str, parameters: tuple[object, ...]
) -> int:
    """Publish, then record it. A crash in between publishes twice; consumers recognise orders by their ids.

    The row locks keep a consumer and a person from publishing the same line at once.
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


def _printable(raw: bytes) -> str:
    """Return a line as text that is safe on a terminal: unprintable characters escaped, long lines cut."""
    text = raw[: 4 * SHOWN_CHARACTERS].decode("utf-8", "backslashreplace")
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(safe) <= SHOWN_CHARACTERS and len(raw) <= 4 * SHOWN_CHARACTERS:
        return safe
    return f"{safe[:SHOWN_CHARACTERS]}… ({len(raw):,} bytes)"
