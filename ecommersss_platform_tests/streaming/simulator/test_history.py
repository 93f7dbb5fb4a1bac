"""The simulated history in database and topic: complete, dated correctly, the same after any interruption."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform_tests.support.shop import execute, query
from streaming.business_days import JAKARTA, business_day
from streaming.database import connect
from streaming.decode import decode
from streaming.errors import PlatformError
from streaming.orders import Order
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.history import produce_days, simulate_history
from streaming.simulator.population import (
    HOUR,
    initial_products,
    initial_users,
    new_products,
    new_users,
)
from streaming.simulator.tables import apply_hour
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

FIRST_DAY = date(2025, 6, 1)
START = datetime(2025, 6, 1, tzinfo=JAKARTA)
UNTIL = START + timedelta(days=2, hours=9, minutes=20)

ROWS = {
    "users": "SELECT id, username, email, default_payment, created_date FROM users ORDER BY id",
    "products": "SELECT id, product_name, category, price, created_date FROM products ORDER BY id",
    "user versions": "SELECT id, email, valid_from FROM users_history ORDER BY id, valid_from",
    "product versions": "SELECT id, price, valid_from FROM products_history ORDER BY id, valid_from",
    "hours": "SELECT hour FROM marketplace_hours ORDER BY hour",
}


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "orders")


def orders_in(topic: JsonlTopic) -> list[Order]:
    with topic.reader(topic.start()) as reader:
        return [decode(line) for line in reader.read(1_000_000, timeout=0).lines]


def state(url: str) -> dict[str, list[tuple[Any, ...]]]:
    return {name: query(url, statement) for name, statement in ROWS.items()}


def test_history_dates_every_hour_and_order_in_its_time(
    database: str, topic: JsonlTopic, tmp_path: Path
) -> None:
    reports: list[tuple[str, int, int]] = []
    history = simulate_history(
        database,
        topic,
        FIRST_DAY,
        UNTIL,
        500,
        lambda *args: reports.append(args),
        ground_truth=tmp_path / "truth.jsonl",
    )
    hours = [START + HOUR * n for n in range(57)]
    users = [*initial_users(FIRST_DAY), *(user for hour in hours for user in new_users(hour))]
    assert query(database, "SELECT count(*), min(id), max(id) FROM users") == [
        (len(users), min(u.id for u in users), max(u.id for u in users))
    ]
    assert (history.users, history.hours) == (len(users), 57)
    assert history.products == len(initial_products(FIRST_DAY)) + sum(len(new_products(h)) for h in hours)
    # The initial population is in the first day's partition, everyone else in that of their sign-up.
    assert query(
        database,
        """
        SELECT count(*) FROM users JOIN users_history USING (id)
        WHERE (valid_from AT TIME ZONE 'Asia/Jakarta')::date
           <> greatest((users.created_date AT TIME ZONE 'Asia/Jakarta')::date, %s)
        """,
        [FIRST_DAY],
    ) == [(0,)]
    [(repriced,)] = query(database, "SELECT count(*) - count(DISTINCT id) FROM products_history")
    assert repriced == history.repriced > 0

    orders = orders_in(topic)
    assert len(orders) == history.orders
    assert [order.id for order in orders] == sorted({order.id for order in orders})
    days = Counter(business_day(order.created_date) for order in orders)
    assert days[FIRST_DAY] == days[date(2025, 6, 2)] == 500
    assert 0 < days[date(2025, 6, 3)] < 250
    assert max(order.created_date for order in orders) < UNTIL
    truth = GroundTruth(tmp_path / "truth.jsonl").read()
    assert set(truth) == {order.id for order in orders}
    assert 0 < sum(pattern is not None for pattern in truth.values()) < 0.1 * len(orders)

    assert reports[-1][0] == "orders"
    assert reports[-1][1] == reports[-1][2]
    assert {what for what, _, _ in reports} == {"hours", "orders"}
    assert all(done <= total for _, done, total in reports)


def test_history_orders_have_the_price_of_their_time(database: str, topic: JsonlTopic) -> None:
    simulate_history(database, topic, FIRST_DAY, START + timedelta(days=3), 500)
    versions: dict[int, list[tuple[datetime, Decimal]]] = {}
    for id_, price, valid_from in query(database, ROWS["product versions"]):
        versions.setdefault(id_, []).append((valid_from, price))
    repriced = 0
    for order in orders_in(topic):
        known = versions[order.product_id]
        then = [price for valid_from, price in known if valid_from <= order.created_date] or [known[0][1]]
        assert order.amount == then[-1] * order.quantity
        repriced += len(then) > 1
    assert repriced > 0


def test_history_is_idempotent(database: str, topic: JsonlTopic, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    simulate_history(database, topic, FIRST_DAY, UNTIL, 300, ground_truth=truth)
    before, end, written = state(database), topic.end(), truth.read_bytes()
    again = simulate_history(database, topic, FIRST_DAY, UNTIL, 300, ground_truth=truth)
    assert (again.users, again.products, again.repriced, again.hours, again.orders) == (0, 0, 0, 0, 0)
    assert (state(database), topic.end(), truth.read_bytes()) == (before, end, written)


def test_interrupted_history_is_completed_to_the_same_result(
    postgres, database: str, topic: JsonlTopic, tmp_path: Path
) -> None:
    """The first attempt ends at an earlier time and is killed in the orders of the second day."""
    simulate_history(database, topic, FIRST_DAY, UNTIL, 300)
    whole, rows = orders_in(topic), state(database)
    wiped = "marketplace_hours, orders, user_lists, users, products, users_history, products_history"
    execute(database, f"TRUNCATE {wiped} CASCADE")

    class Killed(Exception):
        pass

    class Dying(JsonlTopic):
        published = 0

        def publish(self, lines):
            lines = list(lines)
            Dying.published += len(lines)
            if Dying.published > 400:
                super().publish(lines[: len(lines) // 2])
                raise Killed
            return super().publish(lines)

    earlier = START + timedelta(days=1, hours=21, minutes=50)
    with pytest.raises(Killed):
        simulate_history(database, Dying(tmp_path / "other"), FIRST_DAY, earlier, 300)
    other = JsonlTopic(tmp_path / "other")
    assert 400 < len(orders_in(other)) + 20 < len(whole)
    simulate_history(database, other, FIRST_DAY, UNTIL, 300)
    assert orders_in(other) == whole
    assert state(database) == rows


def test_apply_hour_applies_an_hour_only_once(database: str) -> None:
    hour = START + 12 * HOUR
    users, products = new_users(hour), new_products(hour)
    assert users
    with closing(connect(database)) as connection:
        with connection, connection.cursor() as cursor:
            applied = apply_hour(cursor, hour, users, products)
        assert applied is not None
        assert (applied.users, applied.products) == (len(users), len(products))
        before = state(database)
        with connection, connection.cursor() as cursor:
            assert apply_hour(cursor, hour, users, products) is None
    assert state(database) == before
    # A live hour's versions are dated when they are written, so closed days do not change.
    [(age,)] = query(database, "SELECT now() - min(valid_from) FROM users_history")
    assert age < timedelta(minutes=1)


def test_apply_hour_that_fails_leaves_nothing_and_can_be_repeated(database: str) -> None:
    hour = START + 12 * HOUR
    users = new_users(hour)
    with closing(connect(database)) as connection:

        def fail_half_way() -> None:
            with connection, connection.cursor() as cursor:
                apply_hour(cursor, hour, users, [])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_half_way()
        assert query(
            database, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM marketplace_hours)"
        ) == [(0, 0)]
        with connection, connection.cursor() as cursor:
            applied = apply_hour(cursor, hour, users, [])
    assert applied is not None
    assert applied.users == len(users)


def test_apply_hour_keeps_imported_products(database: str) -> None:
    execute(
        database,
        "INSERT INTO products (id, product_name, category, price, created_date) "
        "SELECT n, 'Imported', 'Toys', 70000, now() FROM generate_series(1, 3000) n",
    )
    with closing(connect(database)) as connection, connection, connection.cursor() as cursor:
        for n in range(24):
            apply_hour(cursor, START + HOUR * n, [], [])
    assert query(database, "SELECT DISTINCT price FROM products") == [(Decimal("70000.00"),)]


@pytest.mark.parametrize(
    ("first_day", "until", "message"),
    [
        (date(2025, 6, 5), START, "would begin on 2025-06-05 and end 2025-06-01 00:00"),
        (date(2019, 1, 1), START, "cannot begin on 2019-01-01: order ids begin in 2020, use 2020-01-02"),
    ],
)
def test_impossible_history_is_refused(
    database: str, topic: JsonlTopic, first_day: date, until: datetime, message: str
) -> None:
    with pytest.raises(PlatformError, match=message):
        simulate_history(database, topic, first_day, until)
    assert query(database, "SELECT count(*) FROM users") == [(0,)]


def test_produce_days_is_deterministic_and_ends_now(database: str, topic: JsonlTopic) -> None:
    simulate_history(database, topic, FIRST_DAY, START + timedelta(days=1), 10)
    position, now = topic.end(), START + timedelta(days=3, hours=13)
    arguments = (database, topic, date(2025, 6, 2), date(2025, 6, 4), 200)
    count = produce_days(*arguments, now=now)
    assert produce_days(*arguments, now=now) == count
    orders = [order for order in orders_in(topic) if order.created_date >= START + timedelta(days=1)]
    assert orders[:count] == orders[count:]
    days = Counter(business_day(order.created_date) for order in orders[:count])
    assert days[date(2025, 6, 2)] == days[date(2025, 6, 3)] == 200
    assert 0 < days[date(2025, 6, 4)] < 120
    assert max(order.created_date for order in orders) < now
    assert topic.end() > position


@pytest.mark.parametrize(
    ("first", "last", "per_day", "message"),
    [
        (date(2025, 6, 3), date(2025, 6, 2), 5, "2025-06-03, is after the last, 2025-06-02: swap them"),
        (
            date(2025, 6, 2),
            date(2025, 6, 9),
            5,
            "orders of 2025-06-09 cannot be simulated yet: today is 2025-06-04",
        ),
        (date(2019, 6, 2), date(2025, 6, 2), 5, "ask for 2020-01-02 or later"),
        (date(2025, 6, 2), date(2025, 6, 2), 0, "at least 1, not 0"),
        (date(2025, 6, 2), date(2025, 6, 2), 5, "no user or no product existed before 2025-06-03 00:00"),
    ],
)
def test_produce_days_refuses_impossible_days(
    database: str, topic: JsonlTopic, first: date, last: date, per_day: int, message: str
) -> None:
    now = datetime(2025, 6, 4, 5, tzinfo=UTC)
    with pytest.raises(PlatformError, match=message):
        produce_days(database, topic, first, last, per_day, now=now)
    assert topic.end() == 0
