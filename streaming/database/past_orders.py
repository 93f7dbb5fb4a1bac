"""The SQL of `streaming.history`: a user's stored orders by when they were placed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg2.extensions import cursor as Cursor

from streaming.history import Interval
from streaming.velocity import PastOrder

# Each user's rows are found through the index orders_user (user_id, created_date). LIMIT keeps the planner,
# which may have no statistics of a young table yet, from scanning all of it.
NEWEST = """
    SELECT u, (SELECT max(created_date) FROM orders WHERE user_id = u {earlier}) FROM unnest(%s::int[]) u
"""
WITHIN = """
    SELECT w.n, o.* FROM unnest(%s::int[], %s::timestamptz[], %s::timestamptz[]) WITH ORDINALITY
        AS w(user_id, floor, ceiling, n),
    LATERAL (SELECT id, created_date, amount, country FROM orders
             WHERE user_id = w.user_id AND created_date > w.floor AND created_date <= w.ceiling {earlier}
             ORDER BY created_date LIMIT 1000000000) o
"""
BEFORE = """
    SELECT (SELECT max(created_date) FROM orders
            WHERE user_id = w.user_id AND created_date <= w.floor {earlier})
    FROM unnest(%s::int[], %s::timestamptz[]) WITH ORDINALITY AS w(user_id, floor, n) ORDER BY w.n
"""
_RECENT = """
    SELECT user_id, max(created_date)
    FROM (SELECT user_id, created_date FROM orders ORDER BY created_date DESC LIMIT %s) newest
    GROUP BY user_id
"""


class PastOrders:
    """The orders that a database cursor sees; with `before_position` only those at earlier positions.

    See `streaming.history.StoredOrders` for what its methods return.
    """

    def __init__(self, cursor: Cursor, before_position: int | None = None) -> None:
        self._cursor = cursor
        # Without this condition the newest order is found in the index alone. The consumer does not need it.
        earlier = "" if before_position is None else f"AND position < {int(before_position)}"
        self._newest, self._within, self._before = (
            statement.format(earlier=earlier) for statement in (NEWEST, WITHIN, BEFORE)
        )

    def newest(self, user_ids: Sequence[int]) -> dict[int, datetime | None]:
        if not user_ids:
            return {}
        self._cursor.execute(self._newest, (list(user_ids),))
        return dict(self._cursor.fetchall())

    def within(self, intervals: Sequence[Interval]) -> list[tuple[datetime | None, list[PastOrder]]]:
        users, floors, ceilings = (list(column) for column in zip(*intervals, strict=True))
        self._cursor.execute(self._before, (users, floors))
        found: list[tuple[datetime | None, list[PastOrder]]] = [(before, []) for (before,) in self._cursor]
        self._cursor.execute(self._within, (users, floors, ceilings))
        for n, *row in self._cursor:
            found[n - 1][1].append(PastOrder(*row))
        return found

    def recent_users(self, orders: int) -> dict[int, datetime]:
        self._cursor.execute(_RECENT, (orders,))
        return dict(self._cursor.fetchall())
