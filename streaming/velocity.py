"""The window arithmetic of the features that look back: what a user's earlier orders say about an order.

With t the order's `created_date`, a window of length w holds the user's earlier orders in (t - w, t] and the
order itself. "Earlier" is by position in the topic, so an order that was placed after t is not in the window,
even if it arrived before.

`seconds_since_last_order` looks back to the newest earlier order placed at or before t, however long ago. It
is 0 for a tie, and NULL only if there is none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, chain
from operator import sub
from typing import Final, NamedTuple

import msgspec

from streaming.orders import Order

TEN_MINUTES: Final = timedelta(minutes=10)
DAY: Final = timedelta(hours=24)
"""The longest window."""

_SECOND: Final = timedelta(seconds=1)
_ZERO: Final = Decimal("0.00")
_TRIM_AT: Final = 16
"""The least number of a user's orders at which old ones are dropped."""
_NEAR: Final = 64
"""A late order is inserted in place if at most this many orders come after it; otherwise it goes to a run."""


class Velocity(msgspec.Struct, frozen=True, gc=False):
    """The features that look back. Counts and sums include the order itself; amounts are in rupiah.

    Fields are named as in `FeatureRow`.
    """

    user_orders_10m: int
    user_orders_24h: int
    user_amount_24h: Decimal
    seconds_since_last_order: int | None
    user_countries_24h: int


class PastOrder(NamedTuple):
    """What the features that look back need to know of a stored order."""

    id: int
    created_date: datetime
    amount: Decimal
    country: str


class _Run:
    """Orders sorted by time, with the running totals of their amounts."""

    __slots__ = ("orders", "sums", "times")

    def __init__(self, orders: Iterable[tuple[datetime, Decimal]]) -> None:
        self.orders = sorted(orders)
        self.times = [placed for placed, _ in self.orders]
        self.sums = list(accumulate(amount for _, amount in self.orders))


class Span:
    """All of a user's orders placed in (floor, ceiling]. Without a ceiling the span has no end.

    `before` is the `created_date` of the newest order at or before the floor. Lists are sorted by
    `created_date`; `sums` are running totals of amounts, from any start.

    Orders that are late by many orders are not among `times` and `sums`, where inserting one would change
    all totals after it. They are in runs, each larger than the next, so that there are few: a new order is a
    run of one, and runs of one size are merged.
    """

    __slots__ = (
        *("before", "ceiling", "first_covered", "floor", "late", "sums", "times", "trim_at"),
        *("_base", "_countries", "_country", "_day", "_runs"),
    )

    def __init__(self, floor: datetime, before: datetime | None, ceiling: datetime | None = None) -> None:
        self.floor = floor
        self.first_covered = floor + DAY
        """The windows of an order placed before this instant reach back beyond the floor."""
        self.before = before
        self.ceiling = ceiling
        self.trim_at = _TRIM_AT
        """The number of orders at which to drop old ones: twice as many as were kept, so that a trim pays."""
        self.times: list[datetime] = []
        self.sums: list[Decimal] = []
        self.late = 0
        """The number of orders in runs."""
        self._runs: list[_Run] = []
        self._base = _ZERO  # what `sums` start from
        # Orders before this index are outside the day of every later order that is not late. Searching each
        # time would read old orders, which are in no processor cache.
        self._day = 0
        # Nearly every user orders from one country. Times by country are kept only for users with several,
        # and `_country` is then empty.
        self._country = ""
        self._countries: dict[str, list[datetime]] | None = None

    def covers(self, placed: datetime) -> bool:
        """Return whether the span holds the windows of an order placed at that instant."""
        return placed >= self.first_covered and (self.ceiling is None or placed <= self.ceiling)

    def observe(self, order: Order) -> Velocity:
        """Return the features of an order that the span covers, and count the order from now on."""
        placed, amount, times, sums = order.created_date, order.amount, self.times, self.sums
        end = len(times)
        if self.late or (end and placed < times[-1]):
            return self._observe_late(order)
        in_day = in_ten = 1
        spent, seconds = amount, None
        last, total = (times[-1], sums[-1] + amount) if end else (self.before, self._base + amount)
        if last is not None:
            gap = placed - last
            seconds = gap.days * 86_400 + gap.seconds
            if end and gap < DAY:
                since, day = placed - DAY, self._day
                while times[day] <= since:
                    day += 1
                self._day = day
                in_day += end - day
                if gap < TEN_MINUTES:
                    in_ten += end - bisect_right(times, placed - TEN_MINUTES, day)
                spent = total - (sums[day - 1] if day else self._base)
            else:
                self._day = end
        countries = 1
        if order.country != self._country:
            if self._countries is not None:
                since = placed - DAY
                for country, own in self._countries.items():
                    if own[-1] > since and country != order.country:
                        countries += 1
            elif in_day > 1:
                countries = 2
            self._count_country(placed, order.country)
        times.append(placed)
        sums.append(total)
        return Velocity(in_ten, in_day, spent, seconds, countries)

    def _observe_late(self, order: Order) -> Velocity:
        placed, last, amount = order.created_date, self.before, order.amount
        since, ten = placed - DAY, placed - TEN_MINUTES
        in_day = in_ten = 1
        runs = [(self.times, self.sums, self._base), *((run.times, run.sums, _ZERO) for run in self._runs)]
        for times, sums, base in runs:
            end = bisect_right(times, placed)
            if end == 0:
                continue
            if last is None or times[end - 1] > last:
                last = times[end - 1]
            day = bisect_right(times, since, 0, end)
            if day < end:
                in_day += end - day
                in_ten += end - bisect_right(times, ten, day, end)
                amount += sums[end - 1] - (sums[day - 1] if day else base)
        seconds = None if last is None else (placed - last) // _SECOND
        velocity = Velocity(in_ten, in_day, amount, seconds, self._countries_with(order, in_day == 1))
        self.add(placed, order.amount, order.country)
        return velocity

    def _countries_with(self, order: Order, alone: bool) -> int:
        if self._countries is None:
            return 1 if alone or order.country == self._country else 2
        since, found = order.created_date - DAY, 1
        for country, times in self._countries.items():
            if country != order.country:
                found += bisect_right(times, since) < bisect_right(times, order.created_date)
        return found

    def _count_country(self, placed: datetime, country: str) -> None:
        """Note the country of an order, before the order is added to `times`."""
        if self._countries is None:
            if not self.times:
                self._country = country
                return
            times = sorted(chain(self.times, *(run.times for run in self._runs)))
            self._countries, self._country = {self._country: times}, ""
        own = self._countries.setdefault(country, [])
        own.insert(bisect_right(own, placed), placed)

    def add(self, placed: datetime, amount: Decimal, country: str) -> None:
        """Count an order that another span observed, inside this span or not."""
        if placed <= self.floor:
            if self.before is None or placed > self.before:
                self.before = placed
            return
        if self.ceiling is not None and placed > self.ceiling:
            return
        if country != self._country:
            self._count_country(placed, country)
        at = bisect_right(self.times, placed)
        if len(self.times) - at > _NEAR:
            self._add_run(placed, amount)
            return
        self._day += at < self._day
        self.times.insert(at, placed)
        self.sums.insert(at, self.sums[at - 1] if at else self._base)
        for later in range(at, len(self.sums)):
            self.sums[later] += amount

    def _add_run(self, placed: datetime, amount: Decimal) -> None:
        run = _Run([(placed, amount)])
        while self._runs and len(self._runs[-1].orders) <= len(run.orders):
            run = _Run(self._runs.pop().orders + run.orders)
        self._runs.append(run)
        self.late += 1

    def _merge_runs(self) -> None:
        """Move the orders of all runs to `times` and `sums`."""
        amounts = map(sub, self.sums, chain((self._base,), self.sums))
        whole = _Run(chain(zip(self.times, amounts, strict=True), *(run.orders for run in self._runs)))
        self._runs, self.late, self._base = [], 0, _ZERO
        self.times, self.sums = whole.times, whole.sums
        self._day = bisect_right(self.times, self.times[-1] - DAY)

    def fill(self, orders: list[PastOrder]) -> None:
        """Fill an empty span with its stored orders, in any order."""
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
        """Drop the orders up to an instant, and remember only when the last of them was placed."""
        if self.late:
            self._merge_runs()
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
