"""What `label_sensor` decides in a tick: the pure function `plan_labels`, its values, and what it reads.

Disputes and verdicts come weeks after their orders. A tick asks first for the raw partitions of the days on
which something was written. When these are loaded, it asks for new labels of the days of the orders that were
written about, and of no other days.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import msgspec
import psycopg2
from psycopg2.extensions import connection as Connection

from ecommersss_platform.days import contiguous
from ecommersss_platform.order_stream import (
    LONGEST_WAIT,
    MOST_REQUESTS,
    SETTLED_AFTER,
    Outcome,
    Request,
    reason,
    settle,
)
from ecommersss_platform.reasons import counted
from streaming.business_days import JAKARTA, business_day

LOAD, LABEL = "load:", "label:"
"""The beginnings of run keys: runs that load raw days, and runs that label the days of orders."""


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sensor remembers between ticks; Dagster stores it as JSON."""

    read_to: dict[str, int] = {}
    """The newest version or verdict that was read, by table."""
    written: tuple[date, ...] = ()
    """Days with new versions, whose raw partitions no run was asked for since."""
    ordered: tuple[date, ...] = ()
    """Days of the orders these versions are about."""
    first: datetime | None = None
    """When a tick saw the first of these versions."""
    last: datetime | None = None
    asked_at: datetime | None = None
    """When runs were last asked to load raw days."""
    loads: tuple[Request, ...] = ()
    """Runs that load raw days."""
    loading: tuple[date, ...] = ()
    """Days of orders that are labelled when these runs have succeeded."""
    due: tuple[date, ...] = ()
    """Days of orders that can be labelled, but for which no run was asked yet."""
    labels: tuple[Request, ...] = ()
    """Runs that label days of orders."""
    orders: dict[date, int] = {}
    """How many orders of a day can have another label since a run was last asked for to label it."""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Parse what Dagster stored. Raises `ValueError` for a cursor that this sensor did not write."""
        try:
            return msgspec.json.decode(text, type=cls) if text else cls()
        except msgspec.DecodeError as error:
            raise ValueError(
                f"the cursor of label_sensor cannot be read ({error}): {text!r:.200}. Reset it in the UI:"
                " with an empty cursor everything is read again, which does no harm."
            ) from error

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Changes:
    """What was written to shipments, disputes and verdicts since a cursor."""

    read_to: dict[str, int]
    written: frozenset[date] = frozenset()
    """Business days on which it was written."""
    ordered: Mapping[date, int] = field(default_factory=dict)
    """Business days of the orders it can give another label, with their number."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a tick: what to load and to label, the cursor to keep, and what to tell people."""

    cursor: Cursor
    loads: tuple[Request, ...]
    labels: tuple[Request, ...]
    notes: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why each run is asked for, by its key."""


def plan_labels(
    cursor: Cursor,
    changes: Changes,
    *,
    outcome: Callable[[str], Outcome],
    first_day: date,
    now: datetime,
    interval: timedelta,
) -> Decision:
    """Decide what a tick does.

    `outcome` returns the state of the runs of a request, by its key. `interval` is the shortest time between
    two times that raw days are asked for. Changes wait until none has come for a minute, or for five minutes.
    Failed runs are asked for again, with growing delays.
    """
    notes: list[str] = []
    today = business_day(now)
    written = _days((*cursor.written, *changes.written), first_day, today)
    ordered = _days((*cursor.ordered, *changes.ordered), first_day, today)
    orders = Counter(cursor.orders)
    orders.update({day: n for day, n in changes.ordered.items() if first_day <= day <= today})
    is_new = bool(changes.written or changes.ordered)
    first, last = cursor.first or (now if is_new else None), now if is_new else cursor.last
    position = sum(changes.read_to.values())

    loads, load_again = settle(cursor.loads, lambda key: outcome(LOAD + key), now, notes)
    asked_loads = [_again(request, position) for request in load_again]
    loading, due, asked_at = cursor.loading, cursor.due, cursor.asked_at
    if not loads and not asked_loads:
        due, loading = _days((*due, *loading), first_day, today), ()
        ready_at = max(
            min((last or now) + SETTLED_AFTER, (first or now) + LONGEST_WAIT),
            (asked_at or first or now) + (interval if asked_at else timedelta()),
        )
        if written and ready_at <= now:
            asked_loads = [
                Request(days.first, days.last, 1, read_to=position) for days in contiguous(written)
            ]
            loading, written, ordered, first, last, asked_at = ordered, (), (), None, None, now
        elif written:
            notes.append(
                f"what was written on {len(written)} days about orders of {len(ordered)} waits until"
                f" {ready_at.astimezone(JAKARTA):%Y-%m-%d %H:%M:%S}"
            )

    labels, label_again = settle(cursor.labels, lambda key: outcome(LABEL + key), now, notes)
    room = max(0, MOST_REQUESTS - sum(request.again_at is None for request in labels))
    asked_labels = [_again(request, position) for request in label_again[:room]]
    busy = {day for request in (*labels, *label_again) for day in request.days}
    ranges = contiguous(day for day in due if day not in busy)[: room - len(asked_labels)]
    asked_labels += [Request(days.first, days.last, 1, read_to=position) for days in ranges]
    asked_days = {day for days in ranges for day in days}
    reasons = {
        LOAD + it.key: reason(it, f"shipments, disputes or verdicts of {counted(len(it.days), 'day')}")
        for it in asked_loads
    }
    for request in asked_labels:
        count = sum(orders.pop(day, 0) for day in request.days)
        reasons[LABEL + request.key] = reason(request, f"labels of {counted(count, 'order')}")

    if not notes and not (loads or asked_loads or labels or asked_labels):
        notes.append("no new shipments, disputes or verdicts")
    return Decision(
        Cursor(
            read_to=changes.read_to,
            written=written,
            ordered=ordered,
            first=first,
            last=last,
            asked_at=asked_at,
            loads=(*loads, *asked_loads),
            loading=loading,
            due=tuple(day for day in due if day not in asked_days),
            labels=(*labels, *label_again[room:], *asked_labels),
            orders=dict(orders),
        ),
        tuple(asked_loads),
        tuple(asked_labels),
        tuple(notes),
        reasons,
    )


def _again(request: Request, position: int) -> Request:
    """Return the next attempt at a request, or the same one if its run was lost."""
    if request.again_at is None:
        return request
    return Request(request.first, request.last, request.attempt + 1, read_to=position)


def _days(days: Iterable[date], first_day: date, today: date) -> tuple[date, ...]:
    return tuple(sorted({day for day in days if first_day <= day <= today}))


_TABLES = {
    # Today's shipments change no label: they are loaded with the next run of today.
    "shipments_history": ("version", "valid_from", "valid_from < date_trunc('day', now(), %(zone)s)"),
    "disputes_history": ("version", "valid_from", "true"),
    "verdicts": ("id", "recorded_at", "true"),
}
"""Of each table: the number of a row, when it was written, and whether it is to be loaded."""

_CHANGES = """
    SELECT coalesce(max(w.{number}), %(after)s),
           array_agg(DISTINCT (w.{written} AT TIME ZONE %(zone)s)::date) FILTER (WHERE {loaded})
    FROM {table} w WHERE w.{number} > %(after)s
"""
_ORDERED = """
    SELECT (created_date AT TIME ZONE %(zone)s)::date, count(*) FROM orders WHERE id IN (
        SELECT order_id FROM disputes_history WHERE version > %(disputes_history)s
        UNION SELECT order_id FROM verdicts WHERE id > %(verdicts)s
    ) GROUP BY 1
"""


def read_changes(connection: Connection, read_to: dict[str, int]) -> Changes | None:
    """Read what was written since `read_to`; None if somebody is writing.

    Rows are numbered before their transaction commits. So the read waits for writers, a second at most: after
    it no smaller number can appear.
    """
    found, written, after = {}, set[date](), {table: read_to.get(table, 0) for table in _TABLES}
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '1s'")
        try:
            cursor.execute("LOCK TABLE shipments, disputes, verdicts IN SHARE MODE")
        except psycopg2.errors.LockNotAvailable:
            connection.rollback()
            return None
        for table, (number, at, loaded) in _TABLES.items():
            statement = _CHANGES.format(table=table, number=number, written=at, loaded=loaded)
            cursor.execute(statement, {"after": after[table], "zone": str(JAKARTA)})
            [(found[table], days)] = cursor.fetchall()
            written.update(days or ())
        ordered = {}
        if any(found[table] > after[table] for table in ("disputes_history", "verdicts")):
            cursor.execute(_ORDERED, {**after, "zone": str(JAKARTA)})
            ordered = dict(cursor.fetchall())
    return Changes(found, frozenset(written), ordered)
