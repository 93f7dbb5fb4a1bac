"""The simulated population in the operational database, and the market that is read from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.database import connect
from streaming.simulator.population import FIRST_SIMULATED_ID, HOUR, Price, Product, User, reprices
from streaming.simulator.shoppers import Listing, Market, Shopper


@dataclass(frozen=True)
class AppliedHour:
    """The numbers of rows that an hour added or changed."""

    users: int
    products: int
    repriced: int


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
