"""Consumers that share a queue reach the outcome of a topic on disk, on a real database.

Several at a time share Pub/Sub, on its emulator. Where messages come again, the queue is one in memory: the
emulator takes ten seconds for that.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support import pubsub_emulator as emulator
from ecommersss_platform_tests.support.consumers import running
from ecommersss_platform_tests.support.memory_queue import MemoryQueue, MemoryReader
from ecommersss_platform_tests.support.shop import (
    NOON,
    add_users,
    assert_judged_as_if_undisturbed,
    open_shop,
    order,
    query,
    read_all,
    stored_orders,
)
from streaming import consumer_loop
from streaming.consumer import Consumer
from streaming.database.exemptions import add_exemption
from streaming.database.user_lists import add_entry
from streaming.errors import PlatformError
from streaming.lists import Exemption
from streaming.orders import decode_flagged, encode, encode_flagged
from streaming.rejected import retry_rejected
from streaming.rules import RULES_PATH, RuleBook
from streaming.shared_consumer import SharedConsumer
from streaming.topics import SHARED_POSITIONS
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.pubsub import PubSubTopic

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# The rules that look back are active, so that an order judged out of turn would show.
BOOK = RuleBook.parse(RULES_PATH.read_text().replace("mode: shadow", "mode: active"))
USERS = 40


@pytest.fixture
def url(database: str) -> str:
    open_shop(database, USERS)
    return database


@pytest.fixture
def other_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    administer(postgres, f"CREATE DATABASE other_shop TEMPLATE {migrated_template}")
    open_shop(postgres.url("other_shop"), USERS)
    yield postgres.url("other_shop")
    postgres.up()
    administer(postgres, "DROP DATABASE other_shop WITH (FORCE)")


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def stream(tmp_path: Path) -> JsonlTopic:
    return JsonlTopic(tmp_path / "flagged")


def traffic(count: int, seed: int) -> list[bytes]:
    """Return lines of orders close in time and late, repetitions, reused ids, and invalid lines."""
    pick = random.Random(seed)
    lines: list[bytes] = []
    clock = NOON
    for n in range(1, count + 1):
        kind = pick.random()
        if kind < 0.04:
            lines.append(pick.choice([b"", b"{", b"\xff\xfe", b'{"id": 1}', b"[]", b'{"user_id": 3}']))
        elif kind < 0.08 and lines:
            lines.append(pick.choice(lines))
        else:
            clock += timedelta(seconds=pick.choice([0, 0, 1, 60]))
            user = pick.randint(1, USERS)
            # The user has used this id before: the order of messages decides which one is stored.
            id = n if pick.random() > 0.03 else 1_000_000 + user
            new = order(
                id,
                user_id=user,
                quantity=pick.choice([1, 2, 101]),
                amount=Decimal(pick.choice([3000, 60_000_000, 150_000_000])),
                payment_method=pick.choice(["OVO", "Bank Transfer"]),
                country=pick.choice(["ID", "ID", "ID", "SG"]),
                created_date=clock - timedelta(hours=pick.choice([0, 0, 0, 0, 0, 1, 24, 60])),
            )
            lines.append(encode(new))
    return lines


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


def processed(*consumers: SharedConsumer) -> int:
    return sum(c.counters.orders + c.counters.rejected.total() + c.counters.duplicates for c in consumers)


def outcome(url: str) -> dict[str, object]:
    """Return what is stored, without positions and times of decisions."""
    return {
        "orders": sorted(
            query(
                url,
                "SELECT id, user_id, product_id, quantity, amount, payment_method, country, is_fraud,"
                " fraud_reasons, shadow_reasons, rules_version, lists_version, created_date FROM orders",
            )
        ),
        "books": query(url, "SELECT version, text FROM rule_books"),
        "rejected": Counter(
            (bytes(raw), reason, detail, missing_id)
            for raw, reason, detail, missing_id in query(
                url, "SELECT raw, reason, detail, missing_id FROM rejected_orders"
            )
        ),
    }


def assert_sound(url: str, stream: JsonlTopic) -> None:
    """Check verdicts against one undisturbed consumer in the order of positions, and the stream."""
    orders = sorted(stored_orders(url), key=lambda o: o.position)
    assert_judged_as_if_undisturbed(url, orders, BOOK)
    assert list(read_all(stream).values()) == [encode_flagged(o) for o in orders]
    taken = [o.position for o in orders] + [p for (p,) in query(url, "SELECT position FROM rejected_orders")]
    assert len(set(taken)) == len(taken)
    assert min(taken) >= SHARED_POSITIONS.start


@pytest.mark.pubsub
def test_three_consumers_store_what_one_of_a_topic_on_disk_does(
    topic: PubSubTopic, url: str, other_url: str, stream: JsonlTopic, tmp_path: Path
) -> None:
    lines = traffic(1_500, seed=7)
    on_disk = JsonlTopic(tmp_path / "orders")
    on_disk.publish(lines)
    alone = Consumer(other_url, on_disk, JsonlTopic(tmp_path / "other_flagged"), BOOK)
    alone.run(once=True)

    three = [SharedConsumer(url, topic, stream, BOOK, max_lines=20) for _ in range(3)]
    with running(*three):
        topic.publish(lines)
        eventually(lambda: processed(*three) >= len(lines))
        eventually(lambda: len(read_all(stream)) == alone.counters.orders)

    assert outcome(url) == outcome(other_url)
    assert sum(c.counters.duplicates for c in three) == alone.counters.duplicates > 0
    assert all(c.counters.orders > 100 for c in three), "the work was not shared"
    assert sum((c.counters.rejected for c in three), Counter()) == alone.counters.rejected
    assert alone.counters.rejected["duplicate_id"] > 0
    assert alone.counters.fraud_by_rule["rapid_orders"] > 0
    assert alone.counters.fraud_by_rule["country_change"] > 0
    assert [c.flagged is not None and c.flagged.writing for c in three] == [False] * 3
    assert_sound(url, stream)


def test_stored_but_unacknowledged_messages_come_again_as_duplicates(
    queue: MemoryQueue, url: str, stream: JsonlTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [encode(order(n, user_id=n % 10 + 1)) for n in range(1, 61)]
    lines[3] = b"no order"
    queue.publish(lines[:11])
    with monkeypatch.context() as patch:
        patch.setattr(MemoryReader, "acknowledge", lambda *_: None)
        forgetful = SharedConsumer(url, queue, stream, BOOK, silence=0)
        forgetful.run(once=True)
    assert (forgetful.counters.orders, forgetful.counters.rejected.total()) == (10, 1)
    assert len(queue.waiting) == 11

    queue.publish(lines[11:])
    consumer = SharedConsumer(url, queue, stream, BOOK, silence=0)
    consumer.run(once=True)
    assert not queue.waiting
    assert consumer.counters.orders == 49
    assert consumer.counters.duplicates == 11, "the rejected one too, known by its message"
    assert query(url, "SELECT reason FROM rejected_orders") == [("malformed_json",)]
    assert_sound(url, stream)


def test_lines_are_published_again_when_their_user_arrives_or_people_retry(
    queue: MemoryQueue, url: str, stream: JsonlTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_loop, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(consumer_loop, "_BUSY_RETRY_SECONDS", 0.1)
    queue.publish([encode(order(1, user_id=777)), encode(order(2)), encode(order(3, product_id=99))])
    consumer = SharedConsumer(url, queue, stream, BOOK)
    with running(consumer):
        eventually(lambda: processed(consumer) == 3)
        add_users(url, [777])
        eventually(lambda: consumer.counters.orders == 2)
        assert consumer.counters.retried == 1
        [(waiting,)] = query(url, "SELECT position FROM rejected_orders WHERE retried_at IS NULL")
        assert retry_rejected(url, queue, [waiting]) == 1
        eventually(lambda: consumer.counters.rejected["unknown_product"] == 2)
        eventually(lambda: len(read_all(stream)) == 2)
    assert [decode_flagged(line).id for line in read_all(stream).values()] == [2, 1]
    assert_sound(url, stream)


@pytest.mark.pubsub
def test_changes_of_the_user_lists_are_known_by_position(
    topic: PubSubTopic, url: str, stream: JsonlTopic
) -> None:
    three = [SharedConsumer(url, topic, stream, BOOK, max_lines=3) for _ in range(3)]
    with running(*three):
        for n in range(1, 301, 30):
            topic.publish([encode(order(i, user_id=i % USERS + 1)) for i in range(n, n + 30)])
            add_entry(url, n % USERS + 1, "block", "stolen card")
            if n == 151:
                until = datetime.now(UTC) + timedelta(days=1)
                add_exemption(url, Exemption("blacklisted_user", 32, "settled", "Sari", until))
        eventually(lambda: processed(*three) == 300)
        eventually(lambda: len(read_all(stream)) == 300)
    [(blocked,)] = query(url, "SELECT count(*) FROM orders WHERE 'blacklisted_user' = ANY (fraud_reasons)")
    assert 0 < blocked < 300
    later = "SELECT DISTINCT 'blacklisted_user' = ANY (fraud_reasons) FROM orders WHERE user_id = 32"
    assert query(url, f"{later} AND id > 180") == [(False,)], "published after the user was exempted"
    assert_sound(url, stream)


def test_an_outage_of_the_database_is_waited_out(
    queue: MemoryQueue, url: str, stream: JsonlTopic, postgres: EmbeddedPostgres
) -> None:
    consumer = SharedConsumer(url, queue, stream, BOOK)
    with running(consumer):
        queue.publish([encode(order(n, user_id=n)) for n in range(1, 11)])
        eventually(lambda: consumer.counters.orders == 10)
        postgres.down()
        eventually(lambda: consumer.waiting)
        queue.publish([encode(order(n, user_id=n - 10)) for n in range(11, 21)])
        postgres.up()
        eventually(lambda: query(url, "SELECT count(*) FROM orders") == [(20,)])
        eventually(lambda: len(read_all(stream)) == 20)
    assert_sound(url, stream)


def test_once_ends_when_the_queue_is_silent(queue: MemoryQueue, url: str, stream: JsonlTopic) -> None:
    queue.publish([encode(order(n, user_id=n)) for n in range(1, 21)])
    consumer = SharedConsumer(url, queue, stream, BOOK, silence=1)
    late = threading.Timer(0.5, lambda: queue.publish([encode(order(n, user_id=n)) for n in range(21, 31)]))
    late.start()
    consumer.run(once=True)
    assert consumer.counters.orders == 30
    assert consumer.summary().startswith("30 orders, ")
    assert_sound(url, stream)


def test_a_consumer_without_a_flagged_stream_only_stores(
    queue: MemoryQueue, url: str, stream: JsonlTopic
) -> None:
    queue.publish([encode(order(1))])
    SharedConsumer(url, queue, None, BOOK, silence=0).run(once=True)
    assert query(url, "SELECT count(*) FROM orders") == [(1,)]
    assert len(read_all(stream)) == 0
    SharedConsumer(url, queue, stream, BOOK, silence=0).run(once=True)
    assert_sound(url, stream)


@pytest.mark.pubsub
def test_a_missing_subscription_stops_the_consumer(topic: PubSubTopic, url: str, stream: JsonlTopic) -> None:
    missing = PubSubTopic(emulator.PROJECT, topic.topic, "missing")
    with pytest.raises(
        PlatformError, match=r"subscriptions/missing at the emulator at .*: it does not exist"
    ):
        SharedConsumer(url, missing, stream, BOOK).run()


def test_a_full_disk_stops_the_consumer_and_the_next_goes_on(
    queue: MemoryQueue, url: str, stream: JsonlTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.publish([encode(order(n, user_id=n)) for n in range(1, 31)])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JsonlTopic, "publish_at", full)
        with pytest.raises(PlatformError, match="No space left on device"):
            SharedConsumer(url, queue, stream, BOOK, max_lines=20).run()
    assert len(read_all(stream)) == 0
    assert query(url, "SELECT count(*) FROM orders") == [(20,)]
    SharedConsumer(url, queue, stream, BOOK, silence=0).run(once=True)
    assert len(read_all(stream)) == 30
    assert_sound(url, stream)
