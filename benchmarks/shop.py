"""A marketplace of any size to measure the stream with: users, products, and orders as topic lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from random import Random

from streaming.database import connect

PRODUCTS = 2_000
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_LISTED = FIRST_DAY - timedelta(days=400)
_METHODS = ("Bank Transfer", "Paylater", "Credit Card", "Gopay", "OVO", "DANA")


@dataclass(frozen=True)
class Shop:
    """`users` who each place `orders_per_day` orders a day at random times, from `PRODUCTS` products."""

    users: int
    orders_per_day: float = 5.0

    def open(self, url: str) -> None:
        """Write the users and products."""
        with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("SELECT set_config('ecommersss.clock', %s, true)", (_LISTED.isoformat(),))
            cursor.execute(
                "INSERT INTO users (id, username, email, first_name, last_name, created_date)"
                " SELECT n, 'user' || n, 'user' || n || '@example.com', 'Siti', 'Rahayu', %s"
                " FROM generate_series(1, %s) n",
                (_LISTED, self.users),
            )
            cursor.execute(
                "INSERT INTO products (id, product_name, category, price, created_date)"
                " SELECT n, 'Product ' || n, 'Toys', n * 1000 + 500, %s FROM generate_series(1, %s) n",
                (_LISTED, PRODUCTS),
            )

    def lines(self, first: int, count: int) -> Iterator[bytes]:
        """Orders `first` to `first + count - 1` of all time, in the order of their times, without line ends.

        Most are honest; about one in thirty breaks a rule.
        """
        random = Random(first)
        draw, seconds = random.random, 86_400 / (self.users * self.orders_per_day)
        shown, stamp = -1, ""
        for n in range(first, first + count):
            at = n * seconds
            if int(at) != shown:
                shown = int(at)
                stamp = f"{FIRST_DAY + timedelta(hours=7, seconds=shown):%Y-%m-%dT%H:%M:%S}"
            product_id = 1 + int(draw() * PRODUCTS)
            quantity = 1 + int(draw() * 4) if draw() < 0.985 else 400
            country = "ID" if draw() < 0.985 else "SG"
            yield (
                f'{{"id":{n + 1},"user_id":{1 + int(draw() * self.users)},"product_id":{product_id}'
                f',"quantity":{quantity},"amount":{(product_id * 1000 + 500) * quantity}.00'
                f',"payment_method":"{_METHODS[int(draw() * 6)]}","country":"{country}"'
                f',"created_date":"{stamp}.{int(at % 1 * 1e6):06d}+07:00"}}'
            ).encode()

    def past(self, url: str, count: int) -> None:
        """Store the first `count` orders of all time without the stream: the history that it starts from."""
        with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE lines (line JSON)")
            cursor.copy_expert("COPY lines FROM STDIN", BytesIO(b"\n".join(self.lines(0, count))))
            cursor.execute(
                """
                INSERT INTO orders
                SELECT (line->>'id')::bigint, (line->>'user_id')::int, (line->>'product_id')::int,
                       (line->>'quantity')::bigint, (line->>'amount')::numeric, line->>'payment_method',
                       line->>'country', false, '{}', '{}', 'past', (line->>'created_date')::timestamptz,
                       now(), -1, 0  -- position -1, before the topic: not part of the flagged stream
                FROM lines
                """
            )
