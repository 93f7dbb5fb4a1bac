"""What a user ordered before: the features of rules that look back, as of each order's place in the topic.

An order is judged by what was known when its turn came: the user's *stored* orders at earlier positions,
late ones too, each by its own `created_date`. Rejected lines and repetitions never count. With t the order's
`created_date`, a window of length w holds the earlier ones in (t - w, t] and the order itself; an order that
was placed after t, though it came before, is not in the window.

`seconds_since_last_order` goes back to the newest earlier order placed at or before t, however long ago: 0
for a tie, NULL only when there is none. To answer that for ever without remembering every user for ever,
memory is a cache of the table `orders` and never a second truth: what it holds of a user is complete from a
known instant on (`_Span.floor`), and what an order needs from before that is read, by user, through the index
orders_user, for a whole batch at once. So answers do not depend on what was evicted and when, on restarts, or
on how late an order is; only the time that they take does.

Memory is by users who ordered in the last day or so of the stream's own time, not by users or orders that are
stored. What was observed of a batch that then failed is undone by dropping its users: they are read again
when they are needed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

import msgspec
from psycopg2.extensions import cursor as Cursor

from streaming.orders import Order

TEN_MINUTES: Final = timedelta(minutes=10)
DAY: Final = timedelta(hours=24)
"""The longest window."""

LATENESS: Final = timedelta(hours=1)
"""Orders this late, measured by the user's other orders, need nothing from the database."""

MAX_USERS: Final = 500_000
"""Users kept at most (about 250 MB with three orders each). Beyond it all are dropped, and read as needed."""

WARM_ORDERS: Final = 5_000
"""The newest orders whose users are read at the start."""

_KEPT: Final = DAY + 2 * LATENESS
_SECOND: Final = timedelta(seconds=1)
_ZERO: Final = Decimal("0.00")
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_SWEEP_EVERY: Final = 20_000
_TRIM_AT: Final = 16
"""Orders of a user at which it is first looked whether some of them are too old."""


class Velocity(msgspec.Struct, frozen=True, gc=False):
    """The features that look back. Counts and sums include the order itself; amounts are in rupiah.

    Fields are named as in `FeatureRow`.
    """

    user_orders_10m: int
    user_orders_24h: int
    user_amount_24h: Decimal
    seconds_since_last_order: int | None
    user_countries_24h: int


class Past(NamedTuple):
    """A stored order, as far as history looks at it."""

    id: int
    created_date: datetime
    amount: Decimal
    country: str


class Interval(NamedTuple):
    """A user's orders placed in (floor, ceiling]."""

    user_id: int
    floor: datetime
    ceiling: datetime


class StoredOrders(Protocol):
    """Where history is read from: orders that are committed, or stored earlier in the same transaction."""

    def newest(self, user_ids: Sequence[int]) -> Mapping[int, datetime | None]:
        """When each user's newest order was placed, if there is one."""
        ...

    def within(self, intervals: Sequence[Interval]) -> Sequence[tuple[datetime | None, list[Past]]]:
        """For each interval: when the newest order at or before its floor was placed, and its own orders."""
        ...

    def recent_users(self, orders: int) -> Mapping[int, datetime]:
        """The users of the newest so many orders, and when each ordered last among these."""
        ...


class History(Protocol):
    """What the consumer asks of a history. One thread uses it, in this order, batch after batch:

    `prepare`, `observe` for each order that is accepted, then `committed` or `rolled_back`. A batch may be
    prepared while earlier ones wait for their commit.
    """

    def reset(self, stored: StoredOrders) -> None:
        """Begin anew from what is stored: at the start, and after a connection was lost."""
        ...

    def prepare(self, stored: StoredOrders, orders: Sequence[Order]) -> None:
        """Read what is needed to observe any of these orders."""
        ...

    def observe(self, order: Order) -> Velocity:
        """The features of an order, which counts from now on."""
        ...

    def committed(self, orders: int) -> None:
        """The first so many of the observed orders are stored."""
        ...

    def rolled_back(self) -> None:
        """No observed order that is not committed was stored: they don't count."""
        ...


class _Span:
    """A user's orders placed in (floor, ceiling], all that are known; no ceiling means no end.

    `before` is the newest known order's `created_date` at or before the floor. Lists are sorted by
    `created_date`; `sums` are running totals of amounts, from any start.
    """

    __slots__ = (
        *("before", "ceiling", "first_covered", "floor", "sums", "times", "trim_at"),
        *("_base", "_countries", "_country", "_day"),
    )

    def __init__(self, floor: datetime, before: datetime | None, ceiling: datetime | None = None) -> None:
        self.floor = floor
        self.first_covered = floor + DAY
        """The windows of an order placed before it reach back beyond the floor."""
        self.before = before
        self.ceiling = ceiling
        self.trim_at = _TRIM_AT
        """With so many orders it is due to forget old ones: twice as many as it kept, for a trim to pay."""
        self.times: list[datetime] = []
        self.sums: list[Decimal] = []
        self._base = _ZERO  # what `sums` start from
        # Orders before this one are out of the day of every order to come that is not late. A search each
        # time would look at old orders, which are in no cache of the processor.
        self._day = 0
        # Nearly every user orders from one country. Times by country are kept only for those who don't, and
        # `_country` is empty then.
        self._country = ""
        self._countries: dict[str, list[datetime]] | None = None

    @property
    def newest(self) -> datetime | None:
        return self.times[-1] if self.times else self.before

    def covers(self, placed: datetime) -> bool:
        """Whether the windows of an order placed then lie within."""
        return placed >= self.first_covered and (self.ceiling is None or placed <= self.ceiling)

    def observe(self, order: Order) -> Velocity:
        """The features of an order whose windows lie within, which counts from now on."""
        placed, amount, times, sums = order.created_date, order.amount, self.times, self.sums
        end = len(times)
        if end and placed < times[-1]:
            return self._observe_late(order)
        since = placed - DAY
        if not end:
            last, total, day, short = self.before, self._base, 0, 0
            sum_24h = amount
        else:
            last, total, day = times[-1], sums[-1], self._day
            while day < end and times[day] <= since:
                day += 1
            self._day = day
            ten = placed - TEN_MINUTES
            short = end if last <= ten else bisect_right(times, ten, day)
            sum_24h = total - (sums[day - 1] if day else self._base) + amount
        countries = 1
        if order.country != self._country:
            if self._countries is not None:
                for country, own in self._countries.items():
                    if own[-1] > since and country != order.country:
                        countries += 1
            elif day < end:
                countries = 2
            self._count_country(placed, order.country)
        times.append(placed)
        sums.append(total + amount)
        if last is not None:
            gap = placed - last
            seconds = gap.days * 86_400 + gap.seconds
        return Velocity(end - short + 1, end - day + 1, sum_24h, None if last is None else seconds, countries)

    def _observe_late(self, order: Order) -> Velocity:
        placed, times, sums = order.created_date, self.times, self.sums
        end = bisect_right(times, placed)
        last = times[end - 1] if end else self.before
        day = bisect_right(times, placed - DAY, 0, end)
        velocity = Velocity(
            end - bisect_right(times, placed - TEN_MINUTES, day, end) + 1,
            end - day + 1,
            (sums[end - 1] if end else self._base) - (sums[day - 1] if day else self._base) + order.amount,
            None if last is None else (placed - last) // _SECOND,
            self._countries_with(order, day, end),
        )
        self.add(placed, order.amount, order.country)
        return velocity

    def _countries_with(self, order: Order, day: int, end: int) -> int:
        if self._countries is None:
            return 1 if day == end or order.country == self._country else 2
        since, found = order.created_date - DAY, 1
        for country, times in self._countries.items():
            if country != order.country:
                found += bisect_right(times, since) < bisect_right(times, order.created_date)
        return found

    def _count_country(self, placed: datetime, country: str) -> None:
        """Before the order is counted among the times, keep its country."""
        if self._countries is None:
            if not self.times:
                self._country = country
                return
            self._countries, self._country = {self._country: self.times.copy()}, ""
        own = self._countries.setdefault(country, [])
        own.insert(bisect_right(own, placed), placed)

    def add(self, placed: datetime, amount: Decimal, country: str) -> None:
        """Count an order, wherever it was placed."""
        if placed <= self.floor:
            if self.before is None or placed > self.before:
                self.before = placed
            return
        if self.ceiling is not None and placed > self.ceiling:
            return
        if country != self._country:
            self._count_country(placed, country)
        at = bisect_right(self.times, placed)
        self._day += at < self._day
        self.times.insert(at, placed)
        self.sums.insert(at, self.sums[at - 1] if at else self._base)
        for later in range(at, len(self.sums)):
            self.sums[later] += amount

    def fill(self, orders: list[Past]) -> None:
        """Count many orders, at first; all are placed in (floor, ceiling]."""
        assert not self.times
        orders.sort(key=lambda past: past.created_date)
        self.times = [past.created_date for past in orders]
        self.sums = list(accumulate(past.amount for past in orders))
        countries = {past.country for past in orders}
        self._country = orders[0].country if len(countries) == 1 else ""
        if len(countries) > 1:
            self._countries = {
                country: [past.created_date for past in orders if past.country == country]
                for country in countries
            }

    def trim(self, floor: datetime) -> None:
        """Forget the orders up to an instant, all but when the last of them was."""
        cut = bisect_right(self.times, floor)
        self.trim_at = max(_TRIM_AT, 2 * (len(self.times) - cut))
        if cut == 0:
            return
        self.floor = floor
        self.first_covered = floor + DAY
        self.before = self.times[cut - 1]
        self._base = self.sums[cut - 1]
        self._day = max(0, self._day - cut)
        del self.times[:cut], self.sums[:cut]
        if self._countries is not None:
            kept = {c: times[bisect_right(times, floor) :] for c, times in self._countries.items()}
            self._countries = {country: times for country, times in kept.items() if times}
            if len(self._countries) <= 1:
                self._country = next(iter(self._countries), "")
                self._countries = None


class MemoryHistory:
    """The history of a consumer that is alone on its topic: users stay in memory while they keep ordering."""

    def __init__(self) -> None:
        self._users: dict[int, _Span] = {}
        self._late: dict[int, list[_Span]] = {}
        """The batch's own: what its late orders look back on."""
        self._uncommitted: list[Order] = []
        self._full: set[int] = set()
        """Users who are due to be trimmed. Not within a batch, which was prepared for what they have."""
        self._since_sweep = 0

    def __len__(self) -> int:
        """How many users are in memory."""
        return len(self._users)

    def reset(self, stored: StoredOrders) -> None:
        self._users.clear()
        self._late = {}
        self._uncommitted.clear()
        self._full.clear()
        self._load(stored, {user: [placed] for user, placed in stored.recent_users(WARM_ORDERS).items()})
        self._late = {}

    def prepare(self, stored: StoredOrders, orders: Sequence[Order]) -> None:
        self._late = {}
        if not orders:
            return
        self._tidy(orders)
        missing: dict[int, list[datetime]] = {}
        users = self._users
        for order in orders:
            span = users.get(order.user_id)
            if span is None or order.created_date < span.first_covered:
                missing.setdefault(order.user_id, []).append(order.created_date)
        if missing:
            self._load(stored, missing)

    def observe(self, order: Order) -> Velocity:
        user_id, placed = order.user_id, order.created_date
        span = self._users.get(user_id)
        if not self._late or user_id not in self._late:
            if span is None or placed < span.first_covered:
                raise LookupError(f"order {order.id} was not prepared")
            self._uncommitted.append(order)
            if len(span.times) >= span.trim_at:
                self._full.add(user_id)
            return span.observe(order)
        spans = [*self._late[user_id], *([span] if span is not None else [])]
        found = next((s for s in spans if s.covers(placed)), None)
        if found is None:
            raise LookupError(f"order {order.id} was not prepared")
        self._uncommitted.append(order)
        velocity = found.observe(order)
        for other in spans:
            if other is not found:
                other.add(placed, order.amount, order.country)
        return velocity

    def committed(self, orders: int) -> None:
        del self._uncommitted[:orders]
        self._since_sweep += orders

    def rolled_back(self) -> None:
        for order in self._uncommitted:
            self._users.pop(order.user_id, None)
        self._uncommitted.clear()
        self._late = {}

    def _tidy(self, orders: Sequence[Order]) -> None:
        """Forget what is too old to matter soon: of users with many orders, and at times of all."""
        for user_id in self._full:
            span = self._users.get(user_id)
            if span is not None and span.times:
                span.trim(span.times[-1] - _KEPT)
        self._full.clear()
        if self._since_sweep >= max(_SWEEP_EVERY, len(self._users)) or len(self._users) > MAX_USERS:
            self._since_sweep = 0
            # The time in the middle of the batch: one order from the far future must not evict everyone.
            ends = orders[len(orders) // 2].created_date - _KEPT
            self._users = {
                user_id: span for user_id, span in self._users.items() if span.times and span.times[-1] > ends
            }
            if len(self._users) > MAX_USERS:
                self._users = {}

    def _load(self, stored: StoredOrders, wanted: Mapping[int, Iterable[datetime]]) -> None:
        """Read what the windows of orders by these users at these times hold."""
        users = self._users
        newest = dict(stored.newest([user_id for user_id in wanted if user_id not in users]))
        # Observed and perhaps not stored yet. They may be stored by the time of the reading below.
        waiting: dict[int, list[Past]] = {}
        for order in self._uncommitted:
            if order.user_id in wanted:
                past = Past(order.id, order.created_date, order.amount, order.country)
                waiting.setdefault(order.user_id, []).append(past)
                newest[order.user_id] = _later(newest.get(order.user_id), past.created_date)

        intervals: list[Interval] = []
        for user_id, times in wanted.items():
            spans = _merged(user_id, times)
            last = newest.get(user_id)
            if user_id in users or (last is not None and last > spans[0].floor):
                intervals += spans
            else:  # no window reaches back to any order
                users[user_id] = _Span(_NEVER if last is None else last, last)
        if not intervals:
            return
        for interval, (before, orders) in zip(intervals, stored.within(intervals), strict=True):
            user_id, floor, ceiling = interval
            if user_id in waiting:
                known = {past.id for past in orders}
                for past in waiting[user_id]:
                    if past.created_date <= floor:
                        before = _later(before, past.created_date)
                    elif past.created_date <= ceiling and past.id not in known:
                        orders.append(past)
            if user_id not in users and newest[user_id] <= ceiling:  # type: ignore[operator]
                span = users[user_id] = _Span(floor, before)
            else:
                span = _Span(floor, before, ceiling)
                self._late.setdefault(user_id, []).append(span)
            span.fill(orders)


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None or other > one else one


def _merged(user_id: int, times: Iterable[datetime]) -> list[Interval]:
    """The windows that end at these times, overlapping ones as one; a little more, for late orders."""
    merged: list[Interval] = []
    for placed in sorted(times):
        if merged and placed - DAY - LATENESS <= merged[-1].ceiling:
            merged[-1] = merged[-1]._replace(ceiling=placed)
        else:
            merged.append(Interval(user_id, placed - DAY - LATENESS, placed))
    return merged


class FreshHistory(MemoryHistory):
    """The history of a consumer that shares its topic with others: each batch reads its users anew.

    Whoever uses it must keep the batch's users from being decided about by others until its commit.
    """

    def reset(self, stored: StoredOrders) -> None:
        self._forget()

    def prepare(self, stored: StoredOrders, orders: Sequence[Order]) -> None:
        self._forget()
        super().prepare(stored, orders)

    def _forget(self) -> None:
        self._users.clear()
        self._full.clear()
        self._uncommitted.clear()
        self._late = {}


# Each user's rows are found through the index orders_user (user_id, created_date). LIMIT keeps the planner,
# which may know nothing of a young table yet, from reading all of it.
_NEWEST = """
    SELECT u, (SELECT max(created_date) FROM orders WHERE user_id = u {earlier}) FROM unnest(%s::int[]) u
"""
_WITHIN = """
    SELECT w.n, o.* FROM unnest(%s::int[], %s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY
        AS w(user_id, floor, ceiling, n),
    LATERAL (SELECT id, created_date, amount, country FROM orders
             WHERE user_id = w.user_id AND created_date > w.floor AND created_date <= w.ceiling {earlier}
             ORDER BY created_date LIMIT 1000000000) o
"""
_BEFORE = """
    SELECT (SELECT max(created_date) FROM orders
            WHERE user_id = w.user_id AND created_date <= w.floor {earlier})
    FROM unnest(%s::int[], %s::timestamptz[]) WITH ORDINALITY AS w(user_id, floor, n) ORDER BY w.n
"""
_RECENT = """
    SELECT user_id, max(created_date)
    FROM (SELECT user_id, created_date FROM orders ORDER BY created_date DESC LIMIT %s) newest
    GROUP BY user_id
"""


class DatabaseOrders:
    """The orders that a database cursor sees; with `before` only those at earlier positions."""

    def __init__(self, cursor: Cursor, before: int | None = None) -> None:
        self._cursor = cursor
        # The consumer has no need of it, and without it the newest order is found in the index alone.
        earlier = "" if before is None else f"AND position < {int(before)}"
        self._newest, self._within, self._before = (
            statement.format(earlier=earlier) for statement in (_NEWEST, _WITHIN, _BEFORE)
        )

    def newest(self, user_ids: Sequence[int]) -> dict[int, datetime | None]:
        if not user_ids:
            return {}
        self._cursor.execute(self._newest, (list(user_ids),))
        return dict(self._cursor.fetchall())

    def within(self, intervals: Sequence[Interval]) -> list[tuple[datetime | None, list[Past]]]:
        users, floors, ceilings = (list(column) for column in zip(*intervals, strict=True))
        self._cursor.execute(self._before, (users, floors))
        found: list[tuple[datetime | None, list[Past]]] = [(before, []) for (before,) in self._cursor]
        self._cursor.execute(self._within, (users, floors, ceilings))
        for n, *row in self._cursor:
            found[n - 1][1].append(Past(*row))
        return found

    def recent_users(self, orders: int) -> dict[int, datetime]:
        self._cursor.execute(_RECENT, (orders,))
        return dict(self._cursor.fetchall())
