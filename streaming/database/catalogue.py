"""Users, products, prices and the user lists, cached from PostgreSQL.

The cache is bounded, except for the user lists, which are held whole.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from decimal import Decimal
from operator import itemgetter

from psycopg2.extensions import cursor as Cursor

from streaming.database.overrides import read_overrides
from streaming.database.user_lists import read_lists
from streaming.lists import UserLists
from streaming.rules.brake import Override

MAX_CACHED = 250_000
"""Most cached users, and most cached products (about 50 MB of users). More cost look-ups, not memory."""

# Versions are numbered when written but visible when committed, so a lower number can appear after a higher
# one. The snapshot tells when no lower number can appear any more: see `Catalogue._drop_changed`.
_NEWEST = """
    SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s),
           (SELECT coalesce(max(version), 0) FROM users_history),
           (SELECT coalesce(max(version), 0) FROM products_history),
           (SELECT version FROM user_lists_version)
    FROM txid_current_snapshot() s
"""
_CHANGED_USERS = "SELECT DISTINCT id FROM users_history WHERE version > %s"
_CHANGED_PRODUCTS = "SELECT DISTINCT id FROM products_history WHERE version > %s"
_USERS = "SELECT id, created_date FROM users WHERE id = ANY(%s::int[])"
_PRICES = """
    SELECT p.id, h.valid_from, h.price FROM products p JOIN products_history h USING (id)
    WHERE p.id = ANY(%s::int[]) ORDER BY p.id, h.valid_from, h.version
"""

# Whether a version was known at an instant. Versions from before migration 0008 have no time of their own.
_USER_VERSIONS = """
    SELECT created_date, coalesce(recorded_at, valid_from) <= %s
    FROM users_history WHERE id = %s ORDER BY version
"""
_PRODUCT_VERSIONS = """
    SELECT valid_from, price, coalesce(recorded_at, valid_from) <= %s
    FROM products_history WHERE id = %s ORDER BY version
"""


class Catalogue:
    """The users, products and user lists as of the last `refresh`; a `streaming.decisions.Catalogue`.

    Keeps what recent batches asked for, and reads again what has changed since, such as a price. Ids that
    were not found are not remembered, so a user is known to the first batch after its commit.
    """

    def __init__(self) -> None:
        self.users: dict[int, datetime] = {}
        """When each known user signed up (UTC)."""
        self.lists = UserLists()
        self.overrides: tuple[Override, ...] = ()
        """The rules that the brake put back to shadow, as of the lists' version."""
        self._prices: dict[int, tuple[list[datetime], list[Decimal]]] = {}
        self._settled: tuple[int, int] | None = None
        """Versions of users and of products up to which no other can appear any more."""
        self._pending: tuple[int, tuple[int, int]] | None = None

    @classmethod
    def at(cls, cursor: Cursor, instant: datetime, user_id: int, product_id: int) -> Catalogue:
        """Return what was recorded of one user and one product by an instant, with empty user lists.

        Both exist. Their first versions count as recorded by then, even if they say otherwise: an order that
        was accepted at that instant needed both, so a clock was wrong. A transaction that recorded a version
        before the instant and committed after it counts as known, although it was not.
        """
        catalogue = cls()
        cursor.execute(_USER_VERSIONS, (instant, user_id))
        (first, _), *later = cursor.fetchall()
        catalogue.users[user_id] = [first, *(signed_up for signed_up, known in later if known)][-1]
        cursor.execute(_PRODUCT_VERSIONS, (instant, product_id))
        first, *later = cursor.fetchall()
        prices = sorted([first, *(version for version in later if version[2])], key=itemgetter(0))
        catalogue._prices[product_id] = [start for start, *_ in prices], [price for _, price, _ in prices]
        return catalogue

    def has_product(self, product_id: int) -> bool:
        return product_id in self._prices

    def list_price(self, product_id: int, instant: datetime) -> Decimal | None:
        """Return the product's price in rupiah at that instant; None if it had none yet.

        Raises `KeyError` for an unknown product.
        """
        starts, prices = self._prices[product_id]
        if instant >= starts[-1]:
            return prices[-1]
        index = bisect_right(starts, instant) - 1
        return prices[index] if index >= 0 else None

    def forget(self) -> None:
        """Drop everything, because the database has shown that the cache is wrong."""
        self.users.clear()
        self._prices.clear()

    def refresh(self, cursor: Cursor, user_ids: set[int], product_ids: set[int]) -> None:
        """Bring the cache up to date and read those of the given ids that exist."""
        self._drop_changed(cursor)
        # Not a difference of sets, which would visit every cached user.
        missing_users = [user_id for user_id in user_ids if user_id not in self.users]
        if missing_users:
            if len(self.users) + len(missing_users) > MAX_CACHED:
                self.users.clear()
                missing_users = list(user_ids)
            cursor.execute(_USERS, (missing_users,))
            self.users.update(cursor.fetchall())
        missing_products = [product_id for product_id in product_ids if product_id not in self._prices]
        if missing_products:
            if len(self._prices) + len(missing_products) > MAX_CACHED:
                self._prices.clear()
                missing_products = list(product_ids)
            cursor.execute(_PRICES, (missing_products,))
            for product_id, valid_from, price in cursor:
                starts, prices = self._prices.setdefault(product_id, ([], []))
                starts.append(valid_from)
                prices.append(price)

    def _drop_changed(self, cursor: Cursor) -> None:
        cursor.execute(_NEWEST)
        oldest_running, next_transaction, *newest, lists_version = cursor.fetchone()  # type: ignore[misc]
        if lists_version != self.lists.version:
            self.lists = read_lists(cursor, lists_version)
            self.overrides = read_overrides(cursor, lists_version)
        versions: tuple[int, int] = (newest[0], newest[1])
        if self._settled is None:
            # Until a first point is settled, a running transaction may still change what was cached before.
            self.forget()
        else:
            if versions[0] != self._settled[0]:
                cursor.execute(_CHANGED_USERS, (self._settled[0],))
                for (user_id,) in cursor:
                    self.users.pop(user_id, None)
            if versions[1] != self._settled[1]:
                cursor.execute(_CHANGED_PRODUCTS, (self._settled[1],))
                for (product_id,) in cursor:
                    self._prices.pop(product_id, None)
        # Once every transaction that ran when the pending numbers were read has ended, none of those numbers
        # or lower ones can appear any more.
        if self._pending is None:
            self._pending = (next_transaction, versions)
        elif oldest_running >= self._pending[0]:
            self._settled = self._pending[1]
            self._pending = (next_transaction, versions)
