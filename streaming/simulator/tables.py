"""The simulated population in the operational database, and the market that is read from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.database import connect
from streaming.simulator.aftermath import (
    LONGEST,
    LONGEST_GENUINE,
    REVIEWER,
    STAGES,
    Dispute,
    PastOrder,
    Shipment,
    Verdict,
    aftermath,
)
from streaming.simulator.population import (
    FIRST_SIMULATED_ID,
    HOUR,
    Price,
    Product,
    User,
    hour_of,
    reprices,
)
from streaming.simulator.shoppers import Listing, Market, Shopper


@dataclass(frozen=True)
class AppliedHour:
    """The numbers of rows that an hour added or changed."""

    users: int
    products: int
    repriced: int


class StoredAftermath(NamedTuple):
    """The numbers of versions that were stored of what becomes of orders."""

    shipments: int
    disputes: int
    verdicts: int

    def __str__(self) -> str:
        return (
            f"{self.shipments:,} versions of shipments, {self.disputes:,} of disputes,"
            f" {self.verdicts:,} verdicts"
        )


def date_versions(cursor: Cursor, instant: datetime) -> None:
    """Date the versions of users and products written later in this transaction at `instant` (aware).

    Only for loading or simulating the past: the server's clock dates every other version.
    """
    cursor.execute("SELECT set_config('ecommersss.clock', %s, true)", [instant.isoformat()])


def insert_users(cursor: Cursor, users: Sequence[User]) -> int:
    """Insert the users that do not exist yet, and return their number."""
    return _insert(
        cursor, "INSERT INTO users ({columns}) VALUES %s ON CONFLICT (id) DO NOTHING RETURNING id", users
    )


def insert_products(cursor: Cursor, products: Sequence[Product]) -> int:
    """Insert the products that do not exist yet, and return their number."""
    return _insert(
        cursor,
        "INSERT INTO products ({columns}) VALUES %s ON CONFLICT (id) DO NOTHING RETURNING id",
        products,
    )


def apply_hour(
    cursor: Cursor,
    hour: datetime,
    users: Sequence[User],
    products: Sequence[Product],
    *,
    as_of_then: bool = False,
) -> AppliedHour | None:
    """Apply an hour (its start, aware) of the simulated population in the cursor's transaction, only once.

    Insert its users and products, and re-price simulated products. Return None and change nothing if the
    hour was applied before. With `as_of_then`, versions are dated in the hour itself, for a simulated
    history, instead of when they are written.
    """
    cursor.execute(
        "INSERT INTO marketplace_hours (hour) VALUES (%s) ON CONFLICT DO NOTHING RETURNING hour", [hour]
    )
    if cursor.fetchone() is None:
        return None
    if as_of_then:
        # The hour's last instant: on the hour's day, and no version predates its user or product.
        date_versions(cursor, hour + HOUR - timedelta(microseconds=1))
    cursor.execute(
        "SELECT id, price FROM products WHERE id >= %s ORDER BY id FOR NO KEY UPDATE", [FIRST_SIMULATED_ID]
    )
    changes = reprices(hour, [Price(*row) for row in cursor.fetchall()])
    if changes:
        execute_values(
            cursor,
            "UPDATE products SET price = new.price FROM (VALUES %s) AS new (id, price) "
            "WHERE products.id = new.id",
            changes,
        )
    return AppliedHour(insert_users(cursor, users), insert_products(cursor, products), len(changes))


def hours_applied(cursor: Cursor, start: datetime, end: datetime) -> set[datetime]:
    """Return the hours in [start, end) that were applied."""
    cursor.execute("SELECT hour FROM marketplace_hours WHERE hour >= %s AND hour < %s", [start, end])
    return {hour for (hour,) in cursor.fetchall()}


def apply_aftermath(cursor: Cursor, truth: Mapping[int, str | None], until: datetime) -> StoredAftermath:
    """Store what became by `until` (aware) of the simulated orders that were placed before.

    `truth`: the pattern of each simulated order; other orders are left alone. Rows only advance: a status
    that a row has reached, or that an import gave it, stays. Versions are dated at the end of the hour in
    which they happened, so hours that were missed are filled in as they would have been.
    """
    by_hour: dict[datetime, dict[str, list[Shipment | Dispute | Verdict]]] = {}
    # Older orders were settled by the call that stored the newest version. The first call looks at all.
    cursor.execute("SELECT max(valid_from) FROM shipments_history WHERE valid_from <= %s", [until])
    [(last,)] = cursor.fetchall()
    times = {"until": until, "since": last and last - LONGEST, "recent": last and last - LONGEST_GENUINE}
    fraudulent = [id for id, pattern in truth.items() if pattern is not None]
    # Read through a cursor of the server: the orders of a month need not fit in memory at once.
    with cursor.connection.cursor("past_orders") as past:
        past.execute(_UNSETTLED_ORDERS, {**times, "fraudulent": fraudulent, "reviewer": REVIEWER})
        for id, amount, created, status, outcome, reviewed in past:
            if id not in truth:
                continue
            after = aftermath(PastOrder(id, amount, created), truth[id])
            stage = -1 if status is None else STAGES.index(status)
            shipments = [v for v in after.shipments if STAGES.index(v.status) > stage]
            disputes = [v for v in after.disputes if outcome is None or outcome == "open" != v.outcome]
            verdicts = [] if reviewed else after.verdicts
            versions: list[Shipment | Dispute | Verdict] = [*shipments, *disputes, *verdicts]
            for version in versions:
                if version.at < until:
                    tables = by_hour.setdefault(hour_of(version.at), {})
                    tables.setdefault(_TABLES[type(version)], []).append(version)
    stored: Counter[str] = Counter()
    for hour, tables in sorted(by_hour.items()):
        date_versions(cursor, min(until, hour + HOUR) - timedelta(microseconds=1))
        for table, rows in tables.items():
            statement = _STORE[table].format(columns=", ".join(rows[0]._fields))
            execute_values(cursor, statement, rows, page_size=1_000)
            stored[table] += len(rows)
    return StoredAftermath(**{table: stored[table] for table in _STORE})


_TABLES = {Shipment: "shipments", Dispute: "disputes", Verdict: "verdicts"}

_UNSETTLED_ORDERS = """
    SELECT o.id, o.amount, o.created_date, s.status, d.outcome, v.order_id IS NOT NULL
    FROM orders o
    LEFT JOIN shipments s ON s.order_id = o.id
    LEFT JOIN disputes d ON d.id = o.id
    LEFT JOIN verdicts v ON v.order_id = o.id AND v.reviewer = %(reviewer)s
    WHERE o.created_date < %(until)s AND (%(since)s IS NULL OR o.created_date >= %(since)s)
      AND (%(recent)s IS NULL OR o.created_date >= %(recent)s OR o.id = ANY(%(fraudulent)s)
           OR s.order_id IS NULL OR s.status IN ('packed', 'shipped') OR d.outcome = 'open')
"""

_STORE = {
    "shipments": """
        INSERT INTO shipments ({columns}) VALUES %s
        ON CONFLICT (order_id) DO UPDATE SET
            (status, packed_at, shipped_at, delivered_at, cancelled_at, returned_at, refund_amount)
            = (excluded.status, excluded.packed_at, excluded.shipped_at, excluded.delivered_at,
               excluded.cancelled_at, excluded.returned_at, excluded.refund_amount)
    """,
    "disputes": """
        INSERT INTO disputes ({columns}) VALUES %s
        ON CONFLICT (id) DO UPDATE SET (outcome, decided_at) = (excluded.outcome, excluded.decided_at)
    """,
    "verdicts": "INSERT INTO verdicts ({columns}) VALUES %s",
}


def load_market(url: str, *, past_prices: bool = False) -> Market:
    """Read all users and products, with current prices or, to simulate the past, every price they had.

    Memory grows with the number of users, by about 250 bytes each.
    """
    with closing(connect(url, "ecommersss producer")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, default_payment, created_date FROM users")
        users = [Shopper(*row) for row in cursor.fetchall()]
        cursor.execute(
            "SELECT id, price, valid_from, created_date FROM products_history ORDER BY version"
            if past_prices
            else "SELECT id, price, updated_at, created_date FROM products"
        )
        return Market(users, [Listing(*row) for row in cursor.fetchall()])


def _insert(cursor: Cursor, statement: str, rows: Sequence[User] | Sequence[Product]) -> int:
    if not rows:
        return 0
    # The columns are the fields of our own row types, not input.
    statement = statement.format(columns=", ".join(rows[0]._fields))
    return len(execute_values(cursor, statement, rows, page_size=1_000, fetch=True))
