"""What rules look back on, on a real server: history, the user lists, and a rule book that changes."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform_tests.support.consumers import running
from ecommersss_platform_tests.support.plain_velocity import plain_velocity
from ecommersss_platform_tests.support.shop import (
    NOON,
    assert_stored_exactly_once,
    execute,
    flagged,
    open_shop,
    order,
    query,
    read_all,
)
from streaming import history
from streaming.consumer import Consumer
from streaming.database import connect, past_orders
from streaming.database.exemptions import add_exemption, remove_exemption
from streaming.database.past_orders import PastOrders
from streaming.database.store import OrderStore
from streaming.database.user_lists import (
    add_entry,
    read_lists,
    remove_entry,
)
from streaming.history import FreshHistory, Interval, MemoryHistory
from streaming.lists import Exemption
from streaming.orders import Order, encode
from streaming.rules import RULES_PATH, RuleBook, RuleFile
from streaming.topics.jsonl import JsonlTopic
from streaming.velocity import PastOrder

pytestmark = pytest.mark.integration

BOOK = RuleBook.load(RULES_PATH)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def url(database: str) -> str:
    open_shop(database, users=12)
    return database


@pytest.fixture
def topic(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "orders")


@pytest.fixture
def stream(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "flagged")


def drain(url: str, topic: JsonlTopic, stream: JsonlTopic, rules: RuleBook | RuleFile = BOOK) -> Consumer:
    consumer = Consumer(url, topic, stream, rules)
    consumer.run(once=True)
    return consumer


def shadow(url: str) -> dict[int, list[str]]:
    return dict(query(url, "SELECT id, shadow_reasons FROM orders"))


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.01)


# History.


def store(url: str, *orders: Order) -> None:
    with OrderStore(url, topic="by hand") as by_hand:
        position = by_hand.open()
        by_hand.commit(
            position,
            position + 1,
            [flagged(o.id, **{n: getattr(o, n) for n in Order.__struct_fields__[1:]}) for o in orders],
        )


def test_past_orders_of_the_database(url: str) -> None:
    times = [NOON - 30 * DAY, NOON - DAY, NOON - DAY, NOON - timedelta(microseconds=1), NOON, NOON + HOUR]
    store(url, *(order(n, created_date=t, amount=Decimal(n)) for n, t in enumerate(times, start=1)))
    store(url, order(9, user_id=2, country="SG"))
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        stored = PastOrders(cursor)
        assert stored.newest([1, 2, 3]) == {1: NOON + HOUR, 2: NOON, 3: None}
        assert stored.newest([]) == {}
        (before_1, first), (before_3, third), (before_2, second), (no_last, nothing) = stored.within(
            [
                Interval(1, NOON - DAY, NOON),
                Interval(3, NOON - DAY, NOON),
                Interval(2, NOON - DAY, NOON),
                Interval(1, NOON - 99 * DAY, NOON - 40 * DAY),
            ]
        )
        assert (before_1, sorted(first)) == (
            NOON - DAY,
            [
                PastOrder(4, NOON - timedelta(microseconds=1), Decimal("4.00"), "ID"),
                PastOrder(5, NOON, Decimal("5.00"), "ID"),
            ],
        )
        assert (before_3, third) == (None, [])
        assert (before_2, second) == (None, [PastOrder(9, NOON, Decimal("3000.00"), "SG")])
        assert (no_last, nothing) == (None, [])
        assert stored.recent_users(2) in ({1: NOON + HOUR}, {1: NOON + HOUR, 2: NOON})
        assert stored.recent_users(100) == {1: NOON + HOUR, 2: NOON}


@pytest.mark.parametrize("kind", [MemoryHistory, FreshHistory])
def test_verdicts_are_by_definition_through_restarts_and_evictions(
    url: str,
    topic: JsonlTopic,
    stream: JsonlTopic,
    kind: type[MemoryHistory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With orders months late, ties, repetitions, rejected lines, and a restart after each batch."""
    monkeypatch.setattr(history, "_SWEEP_EVERY", 50)
    pick = random.Random(5)
    clock = NOON
    lines: list[bytes] = []
    for n in range(1, 900):
        clock += timedelta(seconds=pick.choice([0, 0, 0, 0, 0, 0, 0, 30, 600, 7200]))
        late = timedelta(hours=pick.choice([0, 0, 0, 0, 1, 3, 24, 25, 24 * 60]))
        lines.append(
            encode(
                order(
                    n,
                    user_id=pick.choice([1, 2, 3, 3, 4, 5, 99]),  # one of them unknown
                    created_date=clock - late,
                    amount=Decimal(pick.choice([3000, 150_000_000])),
                    country=pick.choice(["ID", "ID", "ID", "SG"]),
                )
            )
        )
        if pick.random() < 0.1:
            lines.append(pick.choice(lines))
        if pick.random() < 0.05:
            lines.append(encode(order(pick.randint(1, n), amount=Decimal(1), created_date=clock)))
    while lines:
        size = pick.choice([1, 10, 100])
        topic.publish(lines[:size])
        del lines[:size]
        consumer = Consumer(url, topic, stream, BOOK, max_lines=pick.choice([7, 5000]))
        consumer.history = kind()
        consumer.run(once=True)
    stored = assert_stored_exactly_once(url, topic, stream, BOOK)
    assert len(stored) > 600
    held = query(url, "SELECT DISTINCT unnest(shadow_reasons) FROM orders")
    assert {rule for (rule,) in held} >= {"rapid_orders", "spend_burst", "country_change"}
    orders = [
        Order(*row)
        for row in query(
            url,
            "SELECT id, user_id, product_id, quantity, amount, payment_method, country, created_date"
            " FROM orders WHERE user_id = 3 ORDER BY position",
        )
    ]
    rapid = [plain_velocity(orders[:n], o).user_orders_10m >= 5 for n, o in enumerate(orders)]
    assert any(rapid)
    reasons = shadow(url)
    assert rapid == ["rapid_orders" in reasons[o.id] for o in orders]


def test_a_batch_that_collided_counts_its_orders_once(
    url: str, topic: JsonlTopic, stream: JsonlTopic
) -> None:
    """The position is moved back, so the first attempt to store the batch fails."""
    orders = [order(n, created_date=NOON + n * timedelta(seconds=1)) for n in range(1, 5)]
    topic.publish([encode(o) for o in orders[:3]])
    drain(url, topic, stream)
    execute(url, "UPDATE topic_positions SET position = 0")
    topic.publish([encode(orders[3])])
    consumer = drain(url, topic, stream)
    assert (consumer.counters.orders, consumer.counters.duplicates) == (1, 3)
    topic.publish([encode(order(5, created_date=NOON + timedelta(seconds=9)))])
    drain(url, topic, stream)
    assert {id: "rapid_orders" in reasons for id, reasons in shadow(url).items()} == {
        1: False,
        2: False,
        3: False,
        4: False,
        5: True,
    }


def test_a_batch_that_collides_while_the_next_is_decided(
    url: str, topic: JsonlTopic, stream: JsonlTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the next one is decided again too, because it counted orders that were not stored."""
    seconds = iter(range(1, 100))

    def next_order(n: int) -> bytes:
        return encode(order(n, created_date=NOON + next(seconds) * timedelta(seconds=1)))

    topic.publish([next_order(1), next_order(2)])
    drain(url, topic, stream)
    _, repeated = read_all(topic).popitem()
    # Batches of three: the first repeats a stored order, and the user's fifth order is in the second.
    topic.publish([next_order(3), repeated, next_order(4), next_order(5), next_order(6), next_order(7)])
    topic.publish([next_order(8)])
    decided: list[tuple[int, bool]] = []
    decide = Consumer._decide

    def noted(self: Consumer, work: Any, look: bool) -> None:
        decided.append((work.decoded[0].order.id, look))
        decide(self, work, look)

    monkeypatch.setattr(Consumer, "_decide", noted)
    consumer = Consumer(url, topic, stream, BOOK, max_lines=3)
    consumer._next_retry = math.inf  # a look for arrivals finishes the pending batch
    consumer.run(once=True)
    assert decided == [(3, False), (5, False), (3, True), (5, True), (8, False)]
    assert (consumer.counters.orders, consumer.counters.duplicates) == (6, 1)
    assert {id for id, reasons in shadow(url).items() if "rapid_orders" in reasons} == {5, 6, 7, 8}
    assert_stored_exactly_once(url, topic, stream, BOOK)


def test_history_is_read_through_its_index(url: str) -> None:
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO orders SELECT n, 1 + n %% 12, 1, 1, 1, 'OVO', 'ID', false, '{}', '{}', 'v',"
            " %s::timestamptz + n * interval '1 minute', now(), n, 0 FROM generate_series(1, 20000) n",
            (NOON,),
        )
        for statement, parameters in (
            (past_orders.NEWEST, ([1, 2],)),
            (past_orders.BEFORE, ([1], [NOON + DAY])),
            (past_orders.WITHIN, ([1], [NOON], [NOON + HOUR])),
        ):
            cursor.execute("EXPLAIN " + statement.format(earlier=""), parameters)
            plan = "\n".join(row for (row,) in cursor)
            assert "orders_user" in plan, plan
            assert "Seq Scan" not in plan, plan


# Lists of users.


def test_a_running_consumer_picks_up_list_changes(url: str, topic: JsonlTopic, stream: JsonlTopic) -> None:
    consumer = Consumer(url, topic, stream, BOOK)

    def judged(id: int, **changes: object) -> bool:
        topic.publish([encode(order(id, **changes))])
        eventually(lambda: id in shadow(url))
        return "blacklisted_user" in shadow(url)[id]

    with running(consumer):
        assert not judged(1)
        add_entry(url, 1, "block", "chargebacks")
        assert judged(2)
        assert not judged(3, user_id=2)
        add_entry(url, 1, "allow", "settled")
        assert not judged(4)
        remove_entry(url, 1, "allow")
        assert judged(5)
        remove_entry(url, 1, "block")
        assert not judged(6)
    assert consumer.counters.fraud == 0, "in shadow it is only noted"
    assert_stored_exactly_once(url, topic, stream, BOOK)
    versions = dict(query(url, "SELECT id, lists_version FROM orders"))
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        assert [versions[id] for id in range(1, 7)] == sorted(versions.values())
        for id, blocked in ((1, False), (2, True), (4, False), (5, True), (6, False)):
            lists = read_lists(cursor, versions[id])
            assert lists.is_blacklisted(1, NOON) is blocked, id
        assert versions[1] == 0


def test_a_list_entry_expires_by_the_time_of_the_order(
    url: str, topic: JsonlTopic, stream: JsonlTopic
) -> None:
    until = (datetime.now(UTC) + HOUR).replace(microsecond=0)
    add_entry(url, 1, "block", "until it is settled", until)
    late = timedelta(microseconds=1)
    topic.publish([encode(order(1, created_date=until - late)), encode(order(2, created_date=until))])
    drain(url, topic, stream)
    assert {id: "blacklisted_user" in reasons for id, reasons in shadow(url).items()} == {1: True, 2: False}


def test_a_running_consumer_picks_up_exemptions(url: str, topic: JsonlTopic, stream: JsonlTopic) -> None:
    consumer = Consumer(url, topic, stream, BOOK)

    def reasons(id: int, **changes: object) -> list[str]:
        topic.publish([encode(order(id, country="SG", **changes))])
        found = "SELECT fraud_reasons FROM orders WHERE id = %s"
        eventually(lambda: bool(query(url, found, (id,))))
        return query(url, found, (id,))[0][0]

    until = (datetime.now(UTC) + HOUR).replace(microsecond=0)
    with running(consumer):
        assert reasons(1) == ["foreign_country"]
        add_exemption(url, Exemption("foreign_country", 1, "abroad", "Sari", until))
        assert reasons(2) == []
        assert reasons(3, user_id=2) == ["foreign_country"]
        assert reasons(4, quantity=301) == ["extreme_order"]
        assert reasons(5, created_date=until) == ["foreign_country"], "it has expired for this order"
        remove_exemption(url, "foreign_country", 1)
        assert reasons(6) == ["foreign_country"]
    assert consumer.counters.fraud_by_rule["foreign_country"] == 4
    assert_stored_exactly_once(url, topic, stream, BOOK)


# The rule book.

RULES = """
rules:
  - name: {name}
    description: d
    mode: active
    when: quantity >= {least}
"""


def test_a_running_consumer_takes_a_changed_rule_book_up(
    url: str, topic: JsonlTopic, stream: JsonlTopic, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(RULES.format(name="two", least=2))
    rules = RuleFile(path)
    first = rules.book.version
    consumer = Consumer(url, topic, stream, rules)

    def judged(id: int) -> tuple[list[str], str]:
        topic.publish([encode(order(id))])
        eventually(lambda: query(url, "SELECT id FROM orders WHERE id = %s", (id,)) != [])
        [found] = query(url, "SELECT fraud_reasons, rules_version FROM orders WHERE id = %s", (id,))
        return found

    with caplog.at_level(logging.INFO), running(consumer):
        assert judged(1) == (["two"], first)
        path.write_text(RULES.format(name="three", least=3))
        reasons, second = judged(2)
        assert (reasons, second) == ([], RuleBook.load(path).version)
        path.write_text("rules: [")
        assert judged(3) == ([], second), "the old book stays"
        assert judged(4) == ([], second)
        path.unlink()
        assert judged(5) == ([], second)
        temporary = tmp_path / "new"
        temporary.write_text(RULES.format(name="two", least=2))
        temporary.replace(path)
        assert judged(6) == (["two"], first)
    kept = "SELECT version, id FROM rule_books JOIN orders ON position = first_position"
    assert dict(query(url, kept)) == {first: 1, second: 2}
    errors = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert [error.partition(": ")[2].removeprefix(f"{path}:") for error in errors] == [
        "1:9: not YAML: expected the node content, but found '<stream end>'",
        "1:1: cannot be read: No such file or directory",
    ]
