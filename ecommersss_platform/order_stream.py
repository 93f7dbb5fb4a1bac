"""What `order_stream_sensor` decides in a tick: the pure function `plan_tick` and its values.

In: what the cursor remembers, how the runs it asked for ended, and the new lines of the stream. Out: the runs
to ask for, the next cursor, and what to tell people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum

import msgspec

from ecommersss_platform.days import Days, contiguous
from streaming.business_days import JAKARTA, business_day

MOST_REQUESTS_PER_TICK = 8
"""Limits the runs that are queued at once when orders spread over many single days."""
FIRST_RETRY = timedelta(minutes=1)
LONGEST_RETRY = timedelta(minutes=15)


class Outcome(Enum):
    """The state of the runs that answer one request."""

    NONE = "there is no run"
    ACTIVE = "queued or running"
    SUCCEEDED = "succeeded"
    FAILED = "failed or cancelled"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A range of days that must be materialised. `last` is included."""

    first: date
    last: date
    attempt: int = 0
    """How often a run was asked for; 0: not yet."""
    again_at: datetime | None = None
    """After a failure: when to ask again."""

    @property
    def days(self) -> Days:
        return Days.between(self.first, self.last)

    def key(self, read_to: int) -> str:
        """Return the run key. Dagster never runs a key twice, so it holds the position and the attempt."""
        return f"{self.first}..{self.last}@{read_to}#{self.attempt}"


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sensor remembers between ticks; Dagster stores it as JSON.

    All days of lines before `position` were materialised after those lines arrived. `pending` holds the days
    of lines in [position, read_to) for which this is not known yet.
    """

    position: int = 0
    read_to: int = 0
    pending: tuple[Request, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Parse what Dagster stored. Raises `ValueError` for a cursor that this sensor did not write."""
        if not text:
            return cls()
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(
                f"the cursor of order_stream_sensor cannot be read ({error}): {text[:200]!r}. Reset it in the"
                " UI: with an empty cursor the whole stream is read again, which does no harm."
            ) from error

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Window:
    """A stretch of the stream, [begin, end), and the number of its orders for each day."""

    begin: int
    end: int
    orders: Counter[date] = field(default_factory=Counter)
    unreadable: int = 0
    """Lines that are not flagged orders."""
    note: str = ""
    """Why the stretch does not begin at the requested position; empty if it does."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a tick: the runs to ask for, the cursor to keep, and what to tell people."""

    cursor: Cursor
    requests: tuple[Request, ...]
    notes: tuple[str, ...]


def retry_delay(attempt: int) -> timedelta:
    """Return how long to wait after attempt `attempt` (from 1) failed: doubled each time, up to a limit."""
    return min(FIRST_RETRY * 2 ** min(attempt - 1, 20), LONGEST_RETRY)


def plan_tick(
    cursor: Cursor,
    *,
    outcome: Callable[[str], Outcome],
    read: Callable[[int], Window],
    first_day: date,
    now: datetime,
) -> Decision:
    """Decide what a tick does.

    `outcome` returns the state of the runs of a request, by its key. `read` reads the stream from a position;
    it is called only when nothing is pending, so at most one batch is under way however fast orders arrive.
    Days are never given up: after a failure they are asked for again, with growing delays.
    """
    notes: list[str] = []
    pending, ask = _settle(cursor, outcome, now, notes)
    if not pending:
        window = read(cursor.read_to)
        pending = ask = _touched(window, first_day, business_day(now), notes)
        cursor = Cursor(window.begin if pending else window.end, window.end)
    under_way = sum(request.again_at is None for request in pending) - len(ask)
    room = max(0, MOST_REQUESTS_PER_TICK - under_way)
    asked = {
        request: msgspec.structs.replace(request, attempt=max(request.attempt, 1)) for request in ask[:room]
    }
    return Decision(
        Cursor(cursor.position, cursor.read_to, tuple(asked.get(request, request) for request in pending)),
        tuple(asked.values()),
        tuple(notes),
    )


def _settle(
    cursor: Cursor, outcome: Callable[[str], Outcome], now: datetime, notes: list[str]
) -> tuple[list[Request], list[Request]]:
    """Return the requests that have not succeeded yet, and those of them to ask for now."""
    pending: list[Request] = []
    ask: list[Request] = []
    for request in cursor.pending:
        match outcome(request.key(cursor.read_to)) if request.attempt else Outcome.NONE:
            case Outcome.SUCCEEDED:
                continue
            case Outcome.ACTIVE:
                notes.append(f"{request.days}: the run is under way (attempt {request.attempt})")
                request = msgspec.structs.replace(request, again_at=None)
            case Outcome.FAILED if request.again_at is None or request.again_at > now:
                again_at = request.again_at or now + retry_delay(request.attempt)
                request = msgspec.structs.replace(request, again_at=again_at)
                notes.append(
                    f"{request.days}: attempt {request.attempt} failed or was cancelled, the next is due at"
                    f" {again_at.astimezone(JAKARTA):%Y-%m-%d %H:%M:%S}; newer orders wait for it."
                    " See the failed run for its error."
                )
            case Outcome.FAILED:
                request = msgspec.structs.replace(request, attempt=request.attempt + 1, again_at=None)
                ask.append(request)
            case Outcome.NONE:
                # Not asked for yet, or the run was lost or deleted. The same key again: if the run exists
                # after all, Dagster ignores the request.
                ask.append(request)
        pending.append(request)
    return pending, ask


def _touched(window: Window, first_day: date, today: date, notes: list[str]) -> list[Request]:
    """Return the days that a stretch of the stream touches, as ranges. Note what cannot be materialised."""
    if window.note:
        notes.append(window.note)
    if window.unreadable:
        notes.append(
            f"{window.unreadable} lines of the flagged stream in [{window.begin}, {window.end}) are not"
            " flagged orders: something else wrote them. If they were orders, these are in the database;"
            " materialise their days by hand."
        )
    early = {day: n for day, n in window.orders.items() if day < first_day}
    late = {day: n for day, n in window.orders.items() if day > today}
    if early:
        notes.append(
            f"{sum(early.values())} orders are from days before the first partition {first_day}"
            f" ({min(early)} to {max(early)}) and cannot be materialised; they are in the database."
            " To materialise them, set an earlier ECOMMERSSS_FIRST_DAY."
        )
    if late:
        notes.append(
            f"{sum(late.values())} orders are from days after today, {today} ({min(late)} to {max(late)}): a"
            " clock is wrong. daily_close materialises these days when they are over."
        )
    days = contiguous(window.orders.keys() - early.keys() - late.keys())
    if not notes and not days:
        notes.append(f"no new flagged orders (position {window.end})")
    return [Request(d.first, d.last) for d in days]
