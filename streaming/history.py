"""A user's earlier orders, cached: the source of the features that look back (see `streaming.velocity`).

An order is judged by what was known when its turn came: the user's *stored* orders at earlier positions, late
ones too, each by its own `created_date`. Rejected lines and repetitions never count.

Memory is only a cache of the table `orders`. It is complete for a user from a known instant on
(`Span.floor`); what an order needs from before that is read by user, for a whole batch at once. So answers do
not depend on what was evicted, on restarts, or on how late an order is; only the time they take does.

Memory holds the users who ordered in about the last day of the stream's own time, up to a limit, however
many users and orders are stored. If a batch fails, the users that it counted are dropped, and read again when
needed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Protocol

from streaming.orders import Order
from streaming.velocity import DAY, PastOrder, Span, Velocity

LATENESS: Final = timedelta(hours=1)
"""Orders up to this late, compared with the user's other orders, need nothing from the database."""

MAX_ORDERS: Final = 1_000_000
"""Most orders in memory by default, each user counted as one more: about 300 MB."""

WARM_ORDERS: Final = 5_000
"""How many of the newest orders are looked at on start: their users are read into memory."""

_KEPT: Final = DAY + 2 * LATENESS
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_SWEEP_EVERY: Final = 20_000


class Interval(NamedTuple):
    """A user's orders placed in (floor, ceiling]."""

    user_id: int
    floor: datetime
    ceiling: datetime


class StoredOrders(Protocol):
    """What a history reads: orders that are committed, or stored earlier in the same transaction."""

    def newest(self, user_ids: Sequence[int]) -> Mapping[int, datetime | None]:
        """Return when each user's newest order was placed, if there is one."""
        ...

    def within(self, intervals: Sequence[Interval]) -> Sequence[tuple[datetime | None, list[PastOrder]]]:
        """Return for each interval when the newest order up to its floor was placed, and its own orders."""
        ...

    def recent_users(self, orders: int) -> Mapping[int, datetime]:
        """Return the users of the newest `orders` orders, and when each last ordered among these."""
        ...


class History(Protocol):
    """The history that a consumer uses from one thread, batch after batch, in this order:

    `load`, `observe` for each accepted order, then `committed` or `rolled_back`. A batch may be loaded while
    earlier ones wait for their commit.
    """

    def reset(self, stored: StoredOrders) -> None:
        """Start from what is stored: at the beginning, and after a connection was lost."""
        ...

    def load(self, stored: StoredOrders, orders: Sequence[Order]) -> None:
        """Read what is needed to observe any of these orders."""
        ...

    def observe(self, order: Order) -> Velocity:
        """Return the features of an order, and count the order from now on.

        Raises `LookupError` for an order that was not loaded.
        """
        ...

    def committed(self, orders: int) -> None:
        """Note that the first `orders` observed orders are stored."""
        ...

    def rolled_back(self) -> None:
        """Forget the observed orders that are not committed: none of them was stored."""
        ...


class MemoryHistory:
    """The history of the only consumer of a topic: users stay in memory while they keep ordering.

    Memory is bounded: beyond `max_orders`, each user counted as one more, old orders are dropped, and then
    the users who have been quiet longest. Only what the current batch looks back on may exceed the limit.
    """

    def __init__(self, max_orders: int = MAX_ORDERS) -> None:
        self._max_orders = max_orders
        self._orders = 0
        """How many users and committed orders are in memory, or more; exact after a sweep."""
        self._users: dict[int, Span] = {}
        self._late: dict[int, _LateSpans] = {}
        """What the late orders of the current batch look back on."""
        self._uncommitted: list[Order] = []
        self._full: set[int] = set()
        """Users to trim between batches: during a batch, its orders rely on what was loaded."""
        self._since_sweep = 0

    def __len__(self) -> int:
        """Return how many users are in memory."""
        return len(self._users)

    def reset(self, stored: StoredOrders) -> None:
        self._forget()
        self._read(stored, {user: [placed] for user, placed in stored.recent_users(WARM_ORDERS).items()})
        self._late = {}

    def load(self, stored: StoredOrders, orders: Sequence[Order]) -> None:
        self._late = {}
        if not orders:
            return
        self._evict(orders)
        missing: dict[int, list[datetime]] = {}
        users = self._users
        for order in orders:
            span = users.get(order.user_id)
            if span is None or order.created_date < span.first_covered:
                missing.setdefault(order.user_id, []).append(order.created_date)
        if missing:
            self._read(stored, missing)

    def observe(self, order: Order) -> Velocity:
        user_id, placed = order.user_id, order.created_date
        span = self._users.get(user_id)
        if not self._late or user_id not in self._late:
            if span is None or placed < span.first_covered:
                raise LookupError(f"order {order.id} was not loaded")
            self._uncommitted.append(order)
            if len(span.times) + span.late >= span.trim_at:
                self._full.add(user_id)
            return span.observe(order)
        late = self._late[user_id]
        around = late.around(placed)
        found = around if around is not None and around.covers(placed) else span
        if found is None or not found.covers(placed):
            raise LookupError(f"order {order.id} was not loaded")
        self._uncommitted.append(order)
        late.update(found)
        velocity = found.observe(order)
        for other in (around, span):
            if other is not None and other is not found:
                other.add(placed, order.amount, order.country)
        insort(late.observed, placed)
        return velocity

    def committed(self, orders: int) -> None:
        del self._uncommitted[:orders]
        self._since_sweep += orders
        self._orders += orders

    def rolled_back(self) -> None:
        for order in self._uncommitted:
            self._users.pop(order.user_id, None)
        self._uncommitted.clear()
        self._late = {}

    def _forget(self) -> None:
        self._users.clear()
        self._full.clear()
        self._uncommitted.clear()
        self._late = {}
        self._orders = 0

    def _evict(self, orders: Sequence[Order]) -> None:
        """Drop what is too old to matter soon: old orders of busy users, and now and then idle users."""
        for user_id in self._full:
            span = self._users.get(user_id)
            if span is not None and span.times:
                span.trim(span.times[-1] - _KEPT)
        self._full.clear()
        crowded = self._orders > self._max_orders
        if crowded or self._since_sweep >= max(_SWEEP_EVERY, len(self._users)):
            self._since_sweep = 0
            # The middle of the batch: one order from the far future must not evict everyone.
            ends = orders[len(orders) // 2].created_date - _KEPT
            users = self._users = {
                user_id: span for user_id, span in self._users.items() if span.times and span.times[-1] > ends
            }
            if crowded:
                # A user who keeps ordering would have to be read again, old orders hardly ever.
                for span in users.values():
                    span.trim(ends)
            self._orders = sum(map(_weight, users.values()))
            if crowded:
                self._drop_quietest(self._max_orders * 3 // 4)

    def _drop_quietest(self, limit: int) -> None:
        """Drop the users who ordered longest ago until memory is within a limit."""
        for user_id, span in sorted(self._users.items(), key=lambda item: item[1].times[-1]):
            if self._orders <= limit:
                break
            self._orders -= _weight(span)
            del self._users[user_id]

    def _read(self, stored: StoredOrders, wanted: Mapping[int, Iterable[datetime]]) -> None:
        """Read the windows of orders by these users at these times."""
        users = self._users
        newest = dict(stored.newest([user_id for user_id in wanted if user_id not in users]))
        # Orders that were observed may be stored by the time of the second reading below, or not.
        waiting: dict[int, list[PastOrder]] = {}
        for order in self._uncommitted:
            if order.user_id in wanted:
                past = PastOrder(order.id, order.created_date, order.amount, order.country)
                waiting.setdefault(order.user_id, []).append(past)
                newest[order.user_id] = _later(newest.get(order.user_id), past.created_date)

        intervals: list[Interval] = []
        for user_id, times in wanted.items():
            windows = _merged_windows(user_id, times)
            last = newest.get(user_id)
            if user_id in users or (last is not None and last > windows[0].floor):
                intervals += windows
            else:  # no window reaches back to any order
                users[user_id] = Span(_NEVER if last is None else last, last)
                self._orders += 1
        if not intervals:
            return
        for pending in waiting.values():
            pending.sort(key=lambda past: past.created_date)
        waiting_times = {user_id: [past.created_date for past in of] for user_id, of in waiting.items()}
        for interval, (before, orders) in zip(intervals, stored.within(intervals), strict=True):
            user_id, floor, ceiling = interval
            if user_id in waiting:
                times = waiting_times[user_id]
                first, end = bisect_right(times, floor), bisect_right(times, ceiling)
                if first:
                    before = _later(before, times[first - 1])
                if first < end:
                    known = {past.id for past in orders}
                    orders += [past for past in waiting[user_id][first:end] if past.id not in known]
            if user_id not in users and newest[user_id] <= ceiling:  # type: ignore[operator]
                span = users[user_id] = Span(floor, before)
                self._orders += 1 + len(orders)
            else:
                span = Span(floor, before, ceiling)
                self._late.setdefault(user_id, _LateSpans()).append(span)
            span.fill(orders)


def _weight(span: Span) -> int:
    """Return what a user counts for the limit of memory."""
    return 1 + len(span.times) + span.late


class _LateSpans:
    """What a user's late orders of one batch look back on: spans that do not overlap, sorted by time.

    `observed` are the times of the user's orders in this batch so far, sorted.
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._ceilings: list[datetime] = []
        self.observed: list[datetime] = []

    def append(self, span: Span) -> None:
        """Add a span that is later than all before."""
        assert span.ceiling is not None
        self._spans.append(span)
        self._ceilings.append(span.ceiling)

    def around(self, placed: datetime) -> Span | None:
        """Return the span in which an instant is."""
        at = bisect_left(self._ceilings, placed)
        return self._spans[at] if at < len(self._spans) and placed > self._spans[at].floor else None

    def update(self, span: Span) -> None:
        """Tell a span of the newest order before it, if this batch had a newer one."""
        at = bisect_right(self.observed, span.floor)
        if at:
            span.before = _later(span.before, self.observed[at - 1])


def _later(one: datetime | None, other: datetime) -> datetime:
    return other if one is None or other > one else one


def _merged_windows(user_id: int, times: Iterable[datetime]) -> list[Interval]:
    """Return the windows that end at these times, with room for late orders, overlapping ones merged."""
    merged: list[Interval] = []
    for placed in sorted(times):
        if merged and placed - DAY - LATENESS <= merged[-1].ceiling:
            merged[-1] = merged[-1]._replace(ceiling=placed)
        else:
            merged.append(Interval(user_id, placed - DAY - LATENESS, placed))
    return merged


class FreshHistory(MemoryHistory):
    """The history of a consumer that shares its topic: each batch reads its users from the database.

    The caller must keep other consumers from deciding about the batch's users until its commit.
    """

    def reset(self, stored: StoredOrders) -> None:
        self._forget()

    def load(self, stored: StoredOrders, orders: Sequence[Order]) -> None:
        self._forget()
        super().load(stored, orders)
