"""What `order_stream_sensor` decides in a tick: the pure function `plan_tick` and its values.

In: what the cursor remembers, how the runs it asked for ended, and the new lines of the stream. Out: the runs
to ask for, the next cursor, and what to tell people.

| a day with new orders | is asked for |
|---|---|
| a closed day | when no order has come for it for a minute, and after five minutes at the latest |
| today | at once, but not again before `ECOMMERSSS_TODAY_INTERVAL_SECONDS` have passed |
| any day in the first stretch that a new sensor reads | at once |
| a day whose run failed | again after a pause that grows |
| a day whose run is queued or under way | after that run |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum

import msgspec
from msgspec.structs import replace

from ecommersss_platform.days import Days, contiguous
from ecommersss_platform.reasons import counted
from streaming.business_days import JAKARTA, business_day

MOST_REQUESTS = 8
"""Limits the runs that are queued at once when orders spread over many single days."""
FIRST_RETRY = timedelta(minutes=1)
LONGEST_RETRY = timedelta(minutes=15)
SETTLED_AFTER = timedelta(minutes=1)
"""How long no order may have come for a closed day before the day is asked for."""
LONGEST_WAIT = timedelta(minutes=5)
"""How long the first late order of a closed day waits at most if others keep coming."""


class Outcome(Enum):
    """The state of the runs that answer one request."""

    NONE = "there is no run"
    ACTIVE = "queued or running"
    SUCCEEDED = "succeeded"
    FAILED = "failed or cancelled"


FIRST_READING = "the flagged stream is read for the first time"
MOST_USERS = 10
"""How many users of new orders are told apart. Of more it is only known that there are more."""


class NewOrders(msgspec.Struct, frozen=True, omit_defaults=True):
    """The orders of a day that came since its last request."""

    begin: int
    """A position in the stream at or before the first of them."""
    count: int
    first: datetime
    """When the first of them was written to the stream."""
    last: datetime
    users: frozenset[int] = frozenset()
    """Who placed them: of more than `MOST_USERS`, one more than these."""

    def __add__(self, other: NewOrders) -> NewOrders:
        return NewOrders(
            min(self.begin, other.begin),
            self.count + other.count,
            min(self.first, other.first),
            max(self.last, other.last),
            frozenset(sorted(self.users | other.users)[: MOST_USERS + 1]),
        )


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """The flagged orders that were read since the last observation of the stream."""

    orders: int = 0
    fraud: int = 0
    newest: datetime | None = None
    """When the newest of them was placed."""

    def __add__(self, other: Seen) -> Seen:
        placed = [at for at in (self.newest, other.newest) if at is not None]
        return Seen(self.orders + other.orders, self.fraud + other.fraud, max(placed, default=None))


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """A range of days that a run was asked for. `last` is included."""

    first: date
    last: date
    attempt: int = 0
    """How often a run was asked for. Only cursors of earlier versions have 0: not yet."""
    again_at: datetime | None = None
    """After a failure: when to ask again."""
    begin: int = 0
    """A position in the stream at or before the first of its orders."""
    read_to: int | None = None
    """How far the stream was read when the run was asked for. Only cursors of earlier versions have None."""

    @property
    def days(self) -> Days:
        return Days.between(self.first, self.last)

    @property
    def key(self) -> str:
        """The run key. Dagster never runs a key twice, so it holds the position and the attempt."""
        return f"{self.first}..{self.last}@{self.read_to}#{self.attempt}"


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sensor remembers between ticks; Dagster stores it as JSON.

    All days of lines before `position` were materialised after those lines arrived. For the lines in
    [position, read_to) this is not known yet: their days are in `waiting` or in `pending`.
    """

    position: int = 0
    read_to: int = 0
    pending: tuple[Request, ...] = ()
    waiting: dict[date, NewOrders] = {}
    """The new orders of the days that no run was asked for since."""
    today_asked_at: datetime | None = None
    """When the last run was asked for that included the day it was."""
    seen: Seen = Seen()
    observed_at: datetime | None = None
    """When the sources were last observed."""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Parse what Dagster stored. Raises `ValueError` for a cursor that this sensor did not write."""
        if not text:
            return cls()
        try:
            cursor = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(
                f"the cursor of order_stream_sensor cannot be read ({error}): {text[:200]!r}. Reset it in the"
                " UI: with an empty cursor the whole stream is read again, which does no harm."
            ) from error
        # An earlier version asked for all pending days at one position.
        asked_at = {"begin": cursor.position, "read_to": cursor.read_to}
        pending = (
            replace(request, **asked_at) if request.read_to is None else request for request in cursor.pending
        )
        return replace(cursor, pending=tuple(pending))

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


@dataclass(frozen=True)
class Window:
    """A stretch of the stream, [begin, end), and its orders of each day."""

    begin: int
    end: int
    orders: Mapping[date, NewOrders] = field(default_factory=dict)
    unreadable: int = 0
    """Lines that are not flagged orders."""
    note: str = ""
    """Why the stretch does not begin at the requested position; empty if it does."""
    seen: Seen = field(default_factory=Seen)
    """The orders of all days together."""


@dataclass(frozen=True)
class Decision:
    """The outcome of a tick: the runs to ask for, the cursor to keep, and what to tell people."""

    cursor: Cursor
    requests: tuple[Request, ...]
    notes: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why each request is made, by its key."""


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
    today_interval: timedelta,
) -> Decision:
    """Decide what a tick does.

    `outcome` returns the state of the runs of a request, by its key. `read` reads the stream from a position.
    `today_interval` is the shortest time between two requests that include today. A day is never asked for
    while its run is queued or under way, and never given up.
    """
    notes: list[str] = []
    today = business_day(now)
    window = read(cursor.read_to)
    waiting = dict(cursor.waiting)
    for day, new in _materializable(window, first_day, today, notes).items():
        new = replace(new, first=min(new.first, now), last=min(new.last, now))  # if clocks differ
        waiting[day] = waiting[day] + new if day in waiting else new

    pending, retries = settle(cursor.pending, outcome, now, notes)
    busy = {day for request in (*pending, *retries) for day in request.days}
    due_at = {
        day: _due_at(day, new, today, cursor, today_interval)
        for day, new in waiting.items()
        if day not in busy
    }
    room = max(0, MOST_REQUESTS - sum(request.again_at is None for request in pending))
    new_orders = dict(waiting)
    asked = [_ask_again(request, waiting, window.end) for request in retries[:room]]
    due = contiguous(day for day, at in due_at.items() if at <= now)
    asked += [_ask(days, 1, waiting, window.end) for days in due[: room - len(asked)]]
    is_first = cursor.read_to == 0
    reasons = {
        it.key: reason(it, FIRST_READING if is_first else _why(it.days, new_orders, today)) for it in asked
    }
    _note_waiting({day: due_at[day] for day in due_at.keys() & waiting.keys()}, waiting, today, now, notes)

    pending = sorted([*pending, *retries[room:], *asked], key=lambda request: request.first)
    if not pending and not waiting and not notes:
        notes.append(f"no new flagged orders (position {window.end})")
    begins = [*(request.begin for request in pending), *(new.begin for new in waiting.values())]
    return Decision(
        Cursor(
            position=min([window.end, *begins]),
            read_to=window.end,
            pending=tuple(pending),
            waiting=waiting,
            today_asked_at=now if any(today in request.days for request in asked) else cursor.today_asked_at,
            seen=cursor.seen + window.seen,
            observed_at=cursor.observed_at,
        ),
        tuple(asked),
        tuple(notes),
        reasons,
    )


def _why(days: Days, new: Mapping[date, NewOrders], today: date) -> str:
    """Return whose late orders, and how many orders of today, have come for these days."""
    late = [new[day] for day in days if day in new and day != today]
    parts = [f"late orders of {_users(late)}"] if late else []
    if today in new and today in days:
        parts.append(f"{counted(new[today].count, 'new order')} of today")
    return " and ".join(parts)


def _users(orders: Iterable[NewOrders]) -> str:
    users = frozenset[int]().union(*(new.users for new in orders))
    return f"more than {MOST_USERS} users" if len(users) > MOST_USERS else counted(len(users), "user")


def _due_at(day: date, new: NewOrders, today: date, cursor: Cursor, today_interval: timedelta) -> datetime:
    """Return when to ask for a day with new orders."""
    if cursor.read_to == 0:
        return new.first
    if day == today:
        return new.first if cursor.today_asked_at is None else cursor.today_asked_at + today_interval
    return min(new.last + SETTLED_AFTER, new.first + LONGEST_WAIT)


def _ask(
    days: Days, attempt: int, waiting: dict[date, NewOrders], read_to: int, begin: int | None = None
) -> Request:
    """Return a request for a new run, which covers the new orders of its days: they wait no more."""
    begins = [waiting.pop(day).begin for day in days if day in waiting]
    first = min(begins if begin is None else [begin, *begins])
    return Request(days.first, days.last, attempt, begin=first, read_to=read_to)


def _ask_again(request: Request, waiting: dict[date, NewOrders], read_to: int) -> Request:
    """Return the next attempt at a request, or the same one if its run was lost.

    If a lost run exists after all, Dagster ignores a request with its key. It may have begun before newer
    orders came, so these go on waiting.
    """
    if request.again_at is None:
        return replace(request, attempt=max(request.attempt, 1))
    return _ask(request.days, request.attempt + 1, waiting, read_to, request.begin)


def settle(
    requests: Iterable[Request], outcome: Callable[[str], Outcome], now: datetime, notes: list[str]
) -> tuple[list[Request], list[Request]]:
    """Return the requests that wait, for their run or for their next attempt, and those to ask for again."""
    wait: list[Request] = []
    again: list[Request] = []
    for request in requests:
        match outcome(request.key) if request.attempt else Outcome.NONE:
            case Outcome.SUCCEEDED:
                continue
            case Outcome.ACTIVE:
                notes.append(f"{request.days}: the run is under way (attempt {request.attempt})")
                wait.append(replace(request, again_at=None))
            case Outcome.FAILED if request.again_at is None or request.again_at > now:
                again_at = request.again_at or now + retry_delay(request.attempt)
                notes.append(
                    f"{request.days}: attempt {request.attempt} failed or was cancelled, the next is due at"
                    f" {_clock(again_at)}; newer orders of these days wait for it. See the failed run for its"
                    " error."
                )
                wait.append(replace(request, again_at=again_at))
            case _:
                again.append(request)
    return wait, again


def _note_waiting(
    due_at: Mapping[date, datetime],
    waiting: Mapping[date, NewOrders],
    today: date,
    now: datetime,
    notes: list[str],
) -> None:
    """Say for what, and until when, the days wait that no run was asked for."""
    if today in due_at:
        notes.append(
            f"{today}: {waiting[today].count} new orders of today wait until {_clock(due_at[today])}"
            " (ECOMMERSSS_TODAY_INTERVAL_SECONDS after the last request)"
        )
    late = sorted(day for day, at in due_at.items() if day != today and at > now)
    if late:
        notes.append(
            f"{sum(waiting[day].count for day in late)} late orders of {len(late)} closed days ({late[0]} to"
            f" {late[-1]}) wait for more of them, until {_clock(min(due_at[day] for day in late))} at least"
        )
    if full := sum(at <= now for day, at in due_at.items() if day != today):
        notes.append(f"{full} more days are asked for when runs that are under way have ended")


def reason(request: Request, why: str) -> str:
    """Return why a run is asked for: `why`, or because an earlier attempt failed."""
    return why if request.attempt <= 1 else f"attempt {request.attempt}, because the one before failed"


def _clock(at: datetime) -> str:
    return f"{at.astimezone(JAKARTA):%Y-%m-%d %H:%M:%S}"


def _materializable(window: Window, first_day: date, today: date, notes: list[str]) -> dict[date, NewOrders]:
    """Return the new orders of the days that have a partition. Note what cannot be materialised."""
    if window.note:
        notes.append(window.note)
    if window.unreadable:
        notes.append(
            f"{window.unreadable} lines of the flagged stream in [{window.begin}, {window.end}) are not"
            " flagged orders: something else wrote them. If they were orders, these are in the database;"
            " materialise their days by hand."
        )
    early = {day: new.count for day, new in window.orders.items() if day < first_day}
    future = {day: new.count for day, new in window.orders.items() if day > today}
    if early:
        notes.append(
            f"{sum(early.values())} orders are from days before the first partition {first_day}"
            f" ({min(early)} to {max(early)}) and cannot be materialised; they are in the database."
            " To materialise them, set an earlier ECOMMERSSS_FIRST_DAY."
        )
    if future:
        notes.append(
            f"{sum(future.values())} orders are from days after today, {today} ({min(future)} to"
            f" {max(future)}): a clock is wrong. daily_close materialises these days when they are over."
        )
    return {day: new for day, new in window.orders.items() if first_day <= day <= today}
