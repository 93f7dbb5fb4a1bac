"""Rejected lines: showing them, and publishing them again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection

from streaming.database import connect
from streaming.errors import PlatformError
from streaming.orders import JAKARTA
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


def list_rejected(url: str, limit: int = 50) -> list[RejectedLine]:
    """The rejected lines, newest first, `limit` at most."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT position, raw, reason, detail, rejected_at, retried_at FROM rejected_orders"
            " ORDER BY position DESC LIMIT %s",
            (limit,),
        )
        return [RejectedLine(position, bytes(raw), *rest) for position, raw, *rest in cursor]


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


def _shown_time(instant: datetime) -> str:
    return instant.astimezone(JAKARTA).isoformat(timespec="seconds")
