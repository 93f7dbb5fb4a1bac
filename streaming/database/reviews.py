"""The review queue in PostgreSQL: orders that passed and wait for a person, whose answer is a verdict.

An order is in the queue if a review rule held for it or the random sample has it, no active rule held, and
nobody has decided about it. So there is no queue to keep: a verdict takes an order out, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Literal

from psycopg2 import errors
from psycopg2.extensions import connection as Connection

from streaming.business_days import JAKARTA
from streaming.database import connect
from streaming.database.user_lists import lock_lists, replace_entry
from streaming.errors import PlatformError

Verdict = Literal["fraud", "genuine"]

LATEST_ORDERS = 10
"""How many of a user's orders `past_of` returns."""

# The partial index `orders_to_review` holds exactly the candidates.
_CANDIDATES = "FROM orders o WHERE review_reasons <> '{}' AND NOT is_fraud"
_QUEUE = f"{_CANDIDATES} AND NOT EXISTS (SELECT FROM verdicts WHERE order_id = o.id)"
_DAY = f"(created_date AT TIME ZONE '{JAKARTA}')::date"
_WAITING = f"""
    SELECT id, {_DAY}, amount, user_id, payment_method, country, review_reasons
    {_QUEUE} ORDER BY {_DAY}, amount DESC, id LIMIT %s
"""
_LENGTH = f"SELECT count(*), coalesce(sum(amount), 0), min(created_date) {_QUEUE}"
# An order counts for each of its reasons, and once for none.
_OF_DAYS = f"""
    WITH candidates AS (
        SELECT created_date AS placed, amount, review_reasons,
               (SELECT min(recorded_at) FROM verdicts WHERE order_id = o.id) AS decided
        {_CANDIDATES} AND created_date < %(end)s
    ), days AS (
        SELECT day, day::timestamp AT TIME ZONE '{JAKARTA}' AS begins,
               (day + 1)::timestamp AT TIME ZONE '{JAKARTA}' AS ends
        FROM unnest(%(days)s::date[]) AS day
    )
    SELECT day, reason, count(*) FILTER (WHERE waits), coalesce(sum(amount) FILTER (WHERE waits), 0),
           min(placed) FILTER (WHERE waits), count(*) FILTER (WHERE placed >= begins),
           count(*) FILTER (WHERE decided < ends)
    FROM days JOIN candidates ON placed < ends AND (decided IS NULL OR decided >= begins),
         LATERAL (SELECT decided IS NULL OR decided >= ends AS waits) AS at_the_end,
         unnest(array_append(review_reasons, NULL)) AS reason
    GROUP BY 1, 2 ORDER BY 1, 4 DESC, 2
"""  # noqa: S608

_PAST_ORDERS = """
    SELECT o.id, o.created_date, o.amount, o.payment_method, o.country,
           o.fraud_reasons || o.shadow_reasons || o.review_reasons,
           (SELECT verdict FROM verdicts WHERE order_id = o.id ORDER BY decided_at DESC, id DESC LIMIT 1),
           (SELECT string_agg(kind || ' ' || outcome, ', ' ORDER BY opened_at) FROM disputes
            WHERE order_id = o.id)
    FROM orders o WHERE user_id = %s AND id <> %s ORDER BY created_date DESC, position DESC LIMIT %s
"""
_VERDICTS = """
    SELECT order_id, verdict, reviewer, note, decided_at FROM verdicts
    WHERE order_id IN (SELECT id FROM orders WHERE user_id = %s) ORDER BY decided_at DESC, id DESC
"""
_DECIDE = "INSERT INTO verdicts (order_id, verdict, reviewer, note) VALUES (%s, %s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An order in the queue. `day` is its business day, `amount` is in rupiah."""

    order: int
    day: date
    amount: Decimal
    user: int
    payment_method: str
    country: str
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Queue:
    """The size of the queue: orders, their rupiah, and when the oldest was placed (None: it is empty)."""

    orders: int
    amount: Decimal
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class QueueOfDay:
    """The queue at the end of a business day: of a reason, or of all if that is None.

    `placed`: how many of its orders were placed on the day; `decided`: how many a person decided first then.
    """

    day: date
    reason: str | None
    orders: int
    amount: Decimal
    oldest: datetime | None
    placed: int
    decided: int


@dataclass(frozen=True, slots=True)
class PastOrder:
    """Another order of a user, with what became of it. `reasons` are those of all modes."""

    order: int
    placed: datetime
    amount: Decimal
    payment_method: str
    country: str
    reasons: list[str]
    verdict: Verdict | None
    disputes: str | None


@dataclass(frozen=True, slots=True)
class Decided:
    """A verdict of a person about an order."""

    order: int
    verdict: Verdict
    reviewer: str
    note: str | None
    decided_at: datetime


def waiting(url: str, limit: int) -> list[Waiting]:
    """Return the queue: the oldest business day first, and of a day the largest amount first."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_WAITING, (limit,))
        return [Waiting(*row) for row in cursor]


def queue_size(connection: Connection) -> Queue:
    """Return the size of the queue."""
    with connection.cursor() as cursor:
        cursor.execute(_LENGTH)
        [row] = cursor.fetchall()
    return Queue(*row)


def queues_of_days(connection: Connection, days: Sequence[date]) -> list[QueueOfDay]:
    """Return the queue at the end of each of these business days, all reasons together and by reason.

    A day on which nothing waited, came or was decided has none.
    """
    end = datetime.combine(max(days) + timedelta(days=1), time.min, JAKARTA)
    with connection.cursor() as cursor:
        cursor.execute(_OF_DAYS, {"days": list(days), "end": end})
        return [QueueOfDay(*row) for row in cursor]


def past_of(url: str, user_id: int, order_id: int) -> tuple[list[PastOrder], list[Decided]]:
    """Return a user's latest orders besides one of them, and all verdicts about the user, newest first."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_PAST_ORDERS, (user_id, order_id, LATEST_ORDERS))
        orders = [PastOrder(*row) for row in cursor]
        cursor.execute(_VERDICTS, (user_id,))
        return orders, [Decided(*row) for row in cursor]


def decide(
    url: str, order_id: int, verdict: Verdict, reviewer: str, note: str, *, block: bool = False
) -> int:
    """Record a verdict about a stored order and, with `block`, put its user on the block list.

    Both happen in one transaction. The newest verdict of an order counts, so this also changes an earlier
    one. `note` says why and becomes the reason of the block. Returns the user.

    Raises `PlatformError` if the order is not stored or the note is empty.
    """
    if not note.strip():
        raise PlatformError("a verdict needs a note, for whoever asks later why it was decided so")
    try:
        with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
            if block:
                lock_lists(cursor)
            cursor.execute(_DECIDE, (order_id, verdict, reviewer, note.strip()))
            cursor.execute("SELECT user_id FROM orders WHERE id = %s", (order_id,))
            [(user_id,)] = cursor.fetchall()
            if block:
                replace_entry(cursor, user_id, "block", f"order {order_id}: {note.strip()}")
    except errors.ForeignKeyViolation:
        raise PlatformError(
            f"order {order_id} is not stored: see `ecommersss review list` for those that wait"
        ) from None
    return int(user_id)
