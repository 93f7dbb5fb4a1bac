"""Features that look back equal their definition and SQL, whatever is evicted in between."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecommersss_platform_tests.support.awkward_topics import (
    DAY,
    HOUR,
    MICROSECOND,
    MINUTE,
    SECOND,
    observed,
    topics,
)
from ecommersss_platform_tests.support.plain_velocity import StoredInMemory, plain_velocity
from ecommersss_platform_tests.support.shop import NOON, order
from streaming import history, velocity
from streaming.history import FreshHistory, MemoryHistory
from streaming.orders import Order
from streaming.velocity import PastOrder, Velocity

SQL = """
    SELECT count(p.position) FILTER (p.created_date > o.created_date - INTERVAL 10 MINUTE) + 1,
           count(p.position) FILTER (p.created_date > o.created_date - INTERVAL 24 HOUR) + 1,
           coalesce(sum(p.amount) FILTER (p.created_date > o.created_date - INTERVAL 24 HOUR), 0) + o.amount,
           floor((epoch_us(o.created_date) - epoch_us(max(p.created_date))) / 1000000)::BIGINT,
           len(list_distinct(list_append(
               coalesce(list(p.country) FILTER (p.created_date > o.created_date - INTERVAL 24 HOUR), []),
               o.country)))
    FROM orders o LEFT JOIN orders p
        ON p.user_id = o.user_id AND p.position < o.position AND p.created_date <= o.created_date
    GROUP BY o.position, o.created_date, o.amount, o.country ORDER BY o.position
"""
CONNECTION = duckdb.connect()
CONNECTION.execute("SET TimeZone = 'UTC'; SET threads = 1")


def in_duckdb(orders: list[Order]) -> list[Velocity]:
    """Return the features as a self-join on the position gives them."""
    table = pa.table(
        {
            "position": pa.array(range(len(orders)), pa.int64()),
            "user_id": pa.array([o.user_id for o in orders], pa.int64()),
            "created_date": pa.array([o.created_date for o in orders], pa.timestamp("us", "UTC")),
            "amount": pa.array([o.amount for o in orders], pa.decimal128(18, 2)),
            "country": [o.country for o in orders],
        }
    )
    CONNECTION.register("orders", table)
    return [Velocity(*row) for row in CONNECTION.execute(SQL).fetchall()]


@pytest.fixture(scope="module", params=[64, 0], ids=["in-place", "in-runs"])
def late_orders(request: pytest.FixtureRequest) -> Iterator[None]:
    """Late orders of a short topic inserted in place, and all of them kept in runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(velocity, "_NEAR", request.param)
        yield


@given(topics())
@settings(max_examples=60)
def test_the_definition_equals_the_sql(topic: list[Order]) -> None:
    assert [plain_velocity(topic[:n], o) for n, o in enumerate(topic)] == in_duckdb(topic)


@given(topics(), st.data())
@settings(max_examples=60)
@pytest.mark.usefixtures("late_orders")
@pytest.mark.parametrize("kind", [MemoryHistory, FreshHistory])
def test_history_equals_its_definition(
    kind: type[MemoryHistory], topic: list[Order], data: st.DataObject
) -> None:
    """With batches of any size, failed commits, restarts and evictions at any time."""
    stored, memory = StoredInMemory(), kind()
    memory.reset(stored)
    found: list[Velocity] = []
    while len(found) < len(topic):
        batch = topic[len(found) : len(found) + data.draw(st.integers(1, 12))]
        happens = data.draw(st.sampled_from(["", "", "", "rolled back", "restart", "evicted"]))
        if happens == "rolled back":
            memory.load(stored, batch)
            for o in batch[: data.draw(st.integers(0, len(batch)))]:
                memory.observe(o)
            memory.rolled_back()
        elif happens == "restart":
            memory = kind()
            memory.reset(stored)
        elif happens == "evicted":
            memory._since_sweep = 10**9
        found += observed(memory, stored, batch)
    assert found == [plain_velocity(topic[:n], o) for n, o in enumerate(topic)]


@given(topics(), st.data())
@settings(max_examples=50)
@pytest.mark.usefixtures("late_orders")
def test_a_batch_may_be_judged_while_others_are_being_stored(topic: list[Order], data: st.DataObject) -> None:
    """An order counts once, whether or not it is stored or known to be when the next batch is loaded."""
    stored, memory = StoredInMemory(), MemoryHistory()
    memory.reset(stored)
    found: list[Velocity] = []
    waiting: list[list[Order]] = []
    unnoticed: list[list[Order]] = []
    while len(found) < len(topic):
        batch = topic[len(found) : len(found) + data.draw(st.integers(1, 8))]
        memory.load(stored, batch)
        found += [memory.observe(o) for o in batch]
        waiting.append(batch)
        for _ in range(data.draw(st.integers(0, len(waiting)))):
            unnoticed.append(waiting.pop(0))
            stored.orders += unnoticed[-1]
        for _ in range(data.draw(st.integers(0, len(unnoticed)))):
            memory.committed(len(unnoticed.pop(0)))
        if data.draw(st.booleans()):
            memory._since_sweep = 10**9
    assert found == [plain_velocity(topic[:n], o) for n, o in enumerate(topic)]


def velocities(*orders: Order) -> list[Velocity]:
    stored, memory = StoredInMemory(), MemoryHistory()
    return observed(memory, stored, list(orders))


def test_a_first_order_counts_itself_and_has_no_last() -> None:
    assert velocities(order(1, amount=Decimal("5.50"))) == [Velocity(1, 1, Decimal("5.50"), None, 1)]


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (timedelta(0), (2, 2, 0)),
        (MICROSECOND, (2, 2, 0)),
        (SECOND - MICROSECOND, (2, 2, 0)),
        (SECOND, (2, 2, 1)),
        (10 * MINUTE - MICROSECOND, (2, 2, 599)),
        (10 * MINUTE, (1, 2, 600)),
        (DAY - MICROSECOND, (1, 2, 86_399)),
        (DAY, (1, 1, 86_400)),
        (400 * DAY, (1, 1, 400 * 86_400)),
        (-MICROSECOND, (1, 1, None)),
    ],
)
def test_windows_are_open_at_their_beginning(gap: timedelta, expected: tuple[int, int, int | None]) -> None:
    _, second = velocities(order(1), order(2, created_date=NOON + gap))
    assert (second.user_orders_10m, second.user_orders_24h, second.seconds_since_last_order) == expected


def test_users_do_not_see_each_other() -> None:
    first, second = velocities(order(1, user_id=1), order(2, user_id=2))
    assert first == second == Velocity(1, 1, Decimal("3000.00"), None, 1)


def test_countries_are_counted_within_the_window() -> None:
    times = [NOON, NOON + HOUR, NOON + DAY, NOON + DAY + HOUR, NOON + DAY + 2 * HOUR]
    countries = ["ID", "SG", "MY", "MY", "MY"]
    found = velocities(
        *(
            order(n, country=c, created_date=t)
            for n, (c, t) in enumerate(zip(countries, times, strict=True), 1)
        )
    )
    assert [v.user_countries_24h for v in found] == [1, 2, 2, 1, 1]


def test_no_order_needs_the_database_while_its_user_keeps_ordering() -> None:
    stored, memory = StoredInMemory(), MemoryHistory()
    orders = [
        order(n, user_id=1 + n % 5, created_date=NOON + n * MINUTE - (n % 7) * 8 * MINUTE)
        for n in range(1, 3000)
    ]
    for n in range(0, len(orders), 10):
        observed(memory, stored, orders[n : n + 10])
    assert sorted(stored.asked) == [1, 2, 3, 4, 5]


def test_memory_is_by_users_and_orders_in_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the users at the same rate of orders take the same memory."""
    monkeypatch.setattr(history, "_SWEEP_EVERY", 100)
    kept = {}
    for users in (5_000, 50_000):
        pick = random.Random(7)
        stored, memory = Nothing(), MemoryHistory()
        for n in range(0, 20_000, 50):
            batch = [
                order(i, user_id=pick.randint(1, users), created_date=NOON + i * 2 * MINUTE)
                for i in range(n + 1, n + 51)
            ]
            memory.load(stored, batch)
            for o in batch:
                memory.observe(o)
            memory.committed(len(batch))
        orders = sum(len(span.times) for span in memory._users.values())
        kept[users] = (len(memory), orders)
    # 26 hours of an order every two minutes are 780 of them; a sweep comes after as many orders as are users.
    for users, orders in kept.values():
        assert users <= 2 * 780
        assert orders <= 3 * 780


class Nothing(StoredInMemory):
    """A database that remembers nothing, which makes a test fast."""

    def __init__(self) -> None:
        super().__init__([])


def test_an_order_from_the_far_future_evicts_no_other_user() -> None:
    stored, memory = StoredInMemory(), MemoryHistory()
    far = order(1, user_id=1, created_date=NOON.replace(year=2090))
    rest = [order(n, user_id=1 + n % 3, created_date=NOON + n * MINUTE) for n in range(2, 400)]
    topic = [far, *rest]
    found = [v for n in range(0, len(topic), 5) for v in observed(memory, stored, topic[n : n + 5])]
    assert found == [plain_velocity(topic[:n], o) for n, o in enumerate(topic)]
    # Only the one user who did it is looked up again.
    assert {u for u in stored.asked if stored.asked.count(u) > 1} == {1}


def test_beyond_the_limit_of_orders_the_quietest_users_are_dropped_and_answers_stay() -> None:
    stored, memory = StoredInMemory(), MemoryHistory(max_orders=100)
    topic = [order(n, user_id=1 if n % 10 else n % 70, created_date=NOON + n * SECOND) for n in range(1, 40)]
    topic += [order(n, user_id=n if n % 10 else 1, created_date=NOON + n * SECOND) for n in range(40, 300)]
    found, held = [], []
    for n in range(0, len(topic), 4):
        found += observed(memory, stored, topic[n : n + 4])
        held.append(sum(1 + len(span.times) for span in memory._users.values()))
    assert found == [plain_velocity(topic[:n], o) for n, o in enumerate(topic)]
    assert 100 <= max(held) <= 100 + 2 * 4
    assert stored.asked.count(1) == 1  # the busy user stayed


def test_beyond_the_limit_old_orders_are_dropped_before_users_who_keep_ordering() -> None:
    stored, memory = Nothing(), MemoryHistory(max_orders=2_000)
    most = 0
    for n in range(0, 8_000, 50):
        # Each of 200 users orders every five hours: at most 6 orders in 26 hours, of the 16 that may be kept.
        observed(
            memory,
            stored,
            [
                order(i + 1, user_id=i % 200 + 1, created_date=NOON + i * 90 * SECOND)
                for i in range(n, n + 50)
            ],
        )
        stored.orders.clear()
        most = max(most, sum(1 + len(span.times) for span in memory._users.values()))
    assert sorted(stored.asked) == list(range(1, 201))
    assert 1_900 < most <= 2_000 + 2 * 50


@pytest.mark.parametrize("users", [1_000, 100_000])
def test_memory_stays_within_the_limit_however_many_orders_a_day_has(users: int) -> None:
    pick, stored, memory = random.Random(7), Nothing(), MemoryHistory(max_orders=2_000)
    most = 0
    for n in range(0, 20_000, 50):
        batch = [
            order(i, user_id=pick.randint(1, users), created_date=NOON + i * SECOND)
            for i in range(n + 1, n + 51)
        ]
        memory.load(stored, batch)
        for o in batch:
            memory.observe(o)
        memory.committed(len(batch))
        most = max(most, sum(1 + len(span.times) + span.late for span in memory._users.values()))
    assert 1_000 < most <= 2_000 + 2 * 50


def test_a_start_reads_the_users_of_the_newest_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "WARM_ORDERS", 3)
    stored = StoredInMemory([order(n, user_id=n, created_date=NOON + n * MINUTE) for n in range(1, 6)])
    memory = MemoryHistory()
    memory.reset(stored)
    assert len(memory) == 3
    stored.asked.clear()
    new = order(9, user_id=5, created_date=NOON + 6 * MINUTE)
    assert observed(memory, stored, [new]) == [Velocity(2, 2, Decimal("6000.00"), 60, 1)]
    assert stored.asked == []


def test_an_order_that_was_not_loaded_is_a_programming_error() -> None:
    memory = MemoryHistory()
    with pytest.raises(LookupError, match="order 1 was not loaded"):
        memory.observe(order(1))
    observed(memory, StoredInMemory(), [order(1)])
    memory.observe(order(2, created_date=NOON - 400 * DAY))  # all is known of a user without orders
    stored = StoredInMemory([order(3, user_id=2)])
    observed(memory, stored, [order(4, user_id=2)])
    with pytest.raises(LookupError, match="order 5 was not loaded"):
        memory.observe(order(5, user_id=2, created_date=NOON - 400 * DAY))


@pytest.mark.usefixtures("late_orders")
def test_orders_of_one_user_in_random_order_equal_the_definition() -> None:
    pick = random.Random(3)
    topic = [
        order(
            n,
            created_date=NOON + pick.randrange(40 * 3600) * SECOND,
            amount=Decimal(pick.randrange(10**6)) / 100,
            country=pick.choice(["ID", "ID", "SG"]),
        )
        for n in range(1, 800)
    ]
    stored, memory = StoredInMemory(), MemoryHistory()
    found = [v for n in range(0, len(topic), 40) for v in observed(memory, stored, topic[n : n + 40])]
    assert found == [plain_velocity(topic[:n], o) for n, o in enumerate(topic)]


def _seconds_for(orders: list[Order]) -> float:
    """Return the processor time that it takes to observe orders of users who have no others."""
    memory = MemoryHistory()
    memory.load(Nothing(), orders)
    began = time.process_time()
    for o in orders:
        memory.observe(o)
    return time.process_time() - began


def test_late_orders_of_one_user_take_little_longer_than_orders_in_time() -> None:
    orders = [order(n, created_date=NOON + n * SECOND) for n in range(1, 40_001)]
    shuffled = orders.copy()
    random.Random(1).shuffle(shuffled)
    assert _seconds_for(shuffled) < 2 + 10 * _seconds_for(orders)


def test_orders_of_one_user_on_thousands_of_days_take_seconds() -> None:
    """Each is later than memory reaches back, so it has a window of its own."""
    days = list(range(1, 5_001))
    random.Random(1).shuffle(days)
    topic = [order(n, created_date=NOON - 2 * day * DAY) for n, day in enumerate(days, 1)]
    stored, memory = Windows([order(9_999)]), MemoryHistory()
    memory.load(stored, topic)
    began = time.process_time()
    found = [memory.observe(o) for o in topic]
    assert time.process_time() - began < 5
    assert [v.user_orders_24h for v in found] == [1] * len(topic)
    seen: list[int] = []
    for v, day in zip(found[:300], days, strict=False):
        older = [2 * (other - day) * 86_400 for other in seen if other > day]
        assert v.seconds_since_last_order == min(older, default=None)
        seen.append(day)


class Windows(StoredInMemory):
    """Stored orders newer than every window that is asked for."""

    def within(self, intervals: Sequence[history.Interval]) -> list[tuple[None, list[PastOrder]]]:
        return [(None, []) for _ in intervals]
