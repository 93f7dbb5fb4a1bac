"""The features that look back, worked out the plain way, and stored orders in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from streaming.history import Interval
from streaming.orders import Order
from streaming.velocity import DAY, TEN_MINUTES, PastOrder, Velocity


def plain_velocity(earlier: Iterable[Order], order: Order) -> Velocity:
    """Return the features of an order by definition, given the stored orders at earlier positions."""
    t = order.created_date
    own = [o for o in earlier if o.user_id == order.user_id]

    def window(length: timedelta) -> list[Order]:
        return [o for o in own if t - length < o.created_date <= t] + [order]

    day = window(DAY)
    before = [o.created_date for o in own if o.created_date <= t]
    return Velocity(
        user_orders_10m=len(window(TEN_MINUTES)),
        user_orders_24h=len(day),
        user_amount_24h=sum((o.amount for o in day), Decimal("0.00")),
        seconds_since_last_order=int((t - max(before)).total_seconds() // 1) if before else None,
        user_countries_24h=len({o.country for o in day}),
    )


class StoredInMemory:
    """Stored orders in a list, which answer as the database does."""

    def __init__(self, orders: list[Order] | None = None) -> None:
        self.orders = orders if orders is not None else []
        self.asked: list[int] = []
        """The users of each query."""

    def newest(self, user_ids: Sequence[int]) -> dict[int, datetime | None]:
        self.asked += user_ids
        return {u: max((o.created_date for o in self._of(u)), default=None) for u in user_ids}

    def within(self, intervals: Sequence[Interval]) -> list[tuple[datetime | None, list[PastOrder]]]:
        self.asked += [user_id for user_id, _, _ in intervals]
        return [
            (
                max((o.created_date for o in self._of(user_id) if o.created_date <= floor), default=None),
                [
                    PastOrder(o.id, o.created_date, o.amount, o.country)
                    for o in self._of(user_id)
                    if floor < o.created_date <= ceiling
                ],
            )
            for user_id, floor, ceiling in intervals
        ]

    def recent_users(self, orders: int) -> dict[int, datetime]:
        newest = sorted(self.orders, key=lambda o: o.created_date)[-orders:]
        return {o.user_id: o.created_date for o in newest}

    def _of(self, user_id: int) -> list[Order]:
        return [o for o in self.orders if o.user_id == user_id]
