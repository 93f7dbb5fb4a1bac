"""A small shop and orders in it, for tests of the stream."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
from psycopg2.extras import execute_values

from ecommersss_platform_tests.support.plain_velocity import StoredInMemory, plain_velocity
from streaming.database import connect
from streaming.database.catalogue import Catalogue
from streaming.database.rows import SELECT_FLAGGED, flagged_from_row
from streaming.database.user_lists import read_lists
from streaming.decisions import features
from streaming.decode import decode
from streaming.history import MemoryHistory
from streaming.lists import UserLists
from streaming.orders import Flagged, Order, encode, encode_flagged, flag
from streaming.rules import RuleBook
from streaming.topics.jsonl import JsonlTopic

NOON = datetime(2026, 3, 2, 5, 0, tzinfo=UTC)
"""12:00 in Jakarta."""
LONG_AGO = NOON - timedelta(days=400)
PRICE = Decimal("1500.00")


def open_shop(url: str, users: int = 10, products: int = 5) -> None:
    """Add users 1..`users` and products 1..`products`, all since `LONG_AGO` and at `PRICE`."""
    add_users(url, range(1, users + 1))
    add_products(url, range(1, products + 1))


def add_users(url: str, ids: Any, signed_up: datetime = LONG_AGO) -> None:
    write(
        url,
        "INSERT INTO users (id, username, email, first_name, last_name, created_date) VALUES %s",
        [(i, f"user{i}", f"user{i}@example.com", "Siti", "Rahayu", signed_up) for i in ids],
        clock=signed_up,
    )


def add_products(url: str, ids: Any, price: Decimal = PRICE, listed: datetime = LONG_AGO) -> None:
    write(
        url,
        "INSERT INTO products (id, product_name, category, price, created_date) VALUES %s",
        [(i, f"Product {i}", "Toys", price, listed) for i in ids],
        clock=listed,
    )


def add_orders(url: str, ids: Any) -> None:
    """Add genuine orders of user 1 for product 1, placed at `NOON`."""
    columns = (
        "id, user_id, product_id, quantity, amount, payment_method, country, is_fraud, fraud_reasons,"
        " shadow_reasons, rules_version, created_date, flagged_at, position, lists_version"
    )
    rows = [(n, 1, 1, 1, 1000, "OVO", "ID", False, [], [], "book", NOON, NOON, n, 0) for n in ids]
    write(url, f"INSERT INTO orders ({columns}) VALUES %s", rows)


def write(url: str, statement: str, rows: list[tuple[Any, ...]], clock: datetime | None = None) -> None:
    """Run `INSERT ... VALUES %s` in one transaction, versions stamped with `clock`."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        if clock is not None:
            cursor.execute("SELECT set_config('ecommersss.clock', %s, true)", (clock.isoformat(),))
        execute_values(cursor, statement, rows)


def execute(url: str, statement: str, parameters: Any = None) -> None:
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def query(url: str, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


def order(id: int = 1, **changes: Any) -> Order:
    """Return a valid order that no house rule objects to."""
    fields: dict[str, Any] = {
        "id": id,
        "user_id": 1,
        "product_id": 1,
        "quantity": 2,
        "amount": Decimal("3000.00"),
        "payment_method": "OVO",
        "country": "ID",
        "created_date": NOON,
    }
    return Order(**(fields | changes))


def flagged(id: int = 1, position: int | None = None, **changes: Any) -> Flagged:
    """Return such an order with a genuine verdict; `position` is 100 times the id unless given."""
    verdict = {
        "fraud_reasons": changes.pop("fraud_reasons", []),
        "shadow_reasons": changes.pop("shadow_reasons", []),
        "rules_version": changes.pop("rules_version", "abc123"),
        "flagged_at": changes.pop("flagged_at", NOON + timedelta(seconds=1)),
        "review_reasons": changes.pop("review_reasons", []),
    }
    return flag(order(id, **changes), position=100 * id if position is None else position, **verdict)


def read_all(topic: JsonlTopic) -> dict[int, bytes]:
    """Return every whole line of a topic by its position."""
    lines: dict[int, bytes] = {}
    with topic.reader(topic.start()) as reader:
        while batch := reader.read(10_000, timeout=0):
            lines.update(zip(batch.positions, batch.lines, strict=True))
    return lines


def assert_stored_exactly_once(url: str, topic: JsonlTopic, flagged: JsonlTopic, book: RuleBook) -> set[int]:
    """Check a drained topic against the database and the flagged stream, and return the order ids.

    Each line of the topic is an order, a rejected line or the repetition of an order. Each order comes from a
    line, has the verdict that the rules give it, and is in the flagged stream once, in topic order, as the
    bytes that its row encodes to.
    """
    published = read_all(topic)
    orders = {order.id: order for order in stored_orders(url)}
    rejected = {p: bytes(raw) for p, raw in query(url, "SELECT position, raw FROM rejected_orders")}
    by_position = {o.position: o for o in orders.values()}
    assert len(by_position) == len(orders)

    assert by_position.keys() | rejected.keys() <= published.keys()
    assert not by_position.keys() & rejected.keys()
    for position, line in published.items():
        if position in rejected:
            assert rejected[position] == line
        else:
            order = decode(line)
            stored = orders[order.id]
            assert position >= stored.position
            assert encode(stored) == encode(order)
    assert_judged_as_if_undisturbed(url, list(orders.values()), book)

    in_stream = list(read_all(flagged).values())
    in_topic_order = sorted(orders.values(), key=lambda o: o.position)
    assert in_stream == [encode_flagged(o) for o in in_topic_order]
    return set(orders)


def stored_orders(url: str) -> list[Flagged]:
    """Return every stored order, in no particular order."""
    return [flagged_from_row(row) for row in query(url, SELECT_FLAGGED)]


def assert_judged_as_if_undisturbed(url: str, orders: list[Flagged], book: RuleBook) -> None:
    """Check each verdict against that of a single pass without stops and evictions.

    The features that look back are also checked against their definition, for a sample: it is slow.
    """
    in_topic_order = sorted(orders, key=lambda o: o.position)
    by_definition = random.Random(1).sample(range(len(orders)), min(300, len(orders)))
    catalogue, history, nothing_before = Catalogue(), Unforgetting(), StoredInMemory()
    lists = ListsOf(url)
    history.reset(nothing_before)
    for n, order in enumerate(in_topic_order):
        catalogue.users[order.user_id] = LONG_AGO
        catalogue._prices[order.product_id] = ([LONG_AGO], [PRICE])
        catalogue.lists = lists(order.id)
        history.load(nothing_before, [order])
        velocity = history.observe(order)
        if n in by_definition:
            assert velocity == plain_velocity(in_topic_order[:n], order)
        exempt = catalogue.lists.exemptions(order.user_id, order.created_date)
        held = book.evaluate(features(order, LONG_AGO, catalogue, velocity))
        verdict = tuple([name for name in names if name not in exempt] for names in held)
        assert (order.fraud_reasons, order.shadow_reasons, order.review_reasons) == verdict, order
        assert order.rules_version == book.version


class Unforgetting(MemoryHistory):
    """A history that keeps everything it has seen, so it never reads any of it again."""

    def _evict(self, orders: Sequence[Order]) -> None:
        pass


class ListsOf:
    """The user lists that decided about each order, as the consumer recorded their version."""

    def __init__(self, url: str) -> None:
        self._versions = dict(query(url, "SELECT id, lists_version FROM orders"))
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            self._lists = {version: read_lists(cursor, version) for version in set(self._versions.values())}

    def __call__(self, order_id: int) -> UserLists:
        return self._lists[self._versions[order_id]]
