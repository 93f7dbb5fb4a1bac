"""The brake in both kinds of consumers: a promoted rule that holds far too often is put back to shadow."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ecommersss_platform_tests.support.consumers import running
from ecommersss_platform_tests.support.memory_queue import MemoryQueue
from ecommersss_platform_tests.support.shop import execute, open_shop, order, query, stored_orders
from streaming.consumer import Consumer
from streaming.database import connect
from streaming.database.overrides import lift_override, list_overrides, read_overrides, read_progress
from streaming.database.shared import SharedOrderStore
from streaming.database.user_lists import add_entry
from streaming.errors import PlatformError
from streaming.orders import Flagged, encode
from streaming.rules import RuleBook, RuleFile
from streaming.rules.brake import PROBATION_LINES, PROBATION_ORDERS, overridden, probations
from streaming.shared_consumer import SharedConsumer
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

USERS = 40
BEFORE = """\
rules:
  - name: half
    description: Holds for every other order.
    mode: shadow
    when: quantity = 2
  - name: rare
    description: Holds for one order in fifty.
    mode: active
    when: quantity = 50
"""
SHARE = "    expected_share: [0.001, 0.01]\n"
PROMOTED = BEFORE.replace("mode: shadow\n", f"mode: active\n{SHARE}")
BOOK = RuleBook.parse(PROMOTED)


@pytest.fixture
def url(database: str) -> str:
    open_shop(database, USERS)
    return database


class Stream:
    """A topic on disk, its rule book's file, and consumers of them."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.topic, self.flagged = JsonlTopic(home / "orders"), JsonlTopic(home / "flagged")
        self.rules = home / "rules.yml"
        self.published = 0

    def drain(self, book: str, orders: int, max_lines: int = 5_000) -> Consumer:
        """Consume new orders, published before the start, with a book."""
        self.rules.write_text(book)
        consumer = Consumer(self.url, self.topic, self.flagged, RuleFile(self.rules), max_lines=max_lines)
        self.publish(orders)
        consumer.run(once=True)
        return consumer

    def publish(self, orders: int) -> None:
        self.topic.publish(lines(self.published + 1, orders))
        self.published += orders


@pytest.fixture
def stream(url: str, tmp_path: Path) -> Stream:
    return Stream(url, tmp_path)


def lines(first: int, count: int) -> list[bytes]:
    """Return orders of which every other one has the quantity 2, and every fiftieth 50."""
    return [
        encode(order(n, user_id=1 + n % USERS, quantity=50 if n % 50 == 0 else 1 + n % 2))
        for n in range(first, first + count)
    ]


def in_order(url: str) -> list[Flagged]:
    return sorted(stored_orders(url), key=lambda o: o.position)


def flagged_by(url: str, rule: str) -> list[int]:
    """The numbers, in topic order from 1, of the orders that a rule flagged."""
    return [n for n, o in enumerate(in_order(url), 1) if rule in o.fraud_reasons]


@pytest.mark.parametrize("max_lines", [1, 70, 5_000])
def test_a_rule_that_flags_half_of_the_orders_is_stopped(stream: Stream, max_lines: int) -> None:
    stream.drain(PROMOTED, 2_000 if max_lines > 1 else 100, max_lines)
    orders = in_order(stream.url)
    last = max(flagged_by(stream.url, "half"))
    assert last <= (40 if max_lines == 1 else PROBATION_LINES)
    [kept] = list_overrides(stream.url)
    effective = overridden(BOOK, [kept.override])
    assert [o.rules_version for o in orders] == [
        BOOK.version if n <= kept.override.orders else effective.version for n in range(1, len(orders) + 1)
    ]
    assert set(flagged_by(stream.url, "rare")) == {n for n in range(1, len(orders) + 1) if n % 50 == 0}
    assert all("half" in o.shadow_reasons for o in orders[last + 1 :] if o.quantity == 2)
    assert query(stream.url, "SELECT version, text FROM rule_books ORDER BY number") == [
        (BOOK.version, BOOK.text),
        (effective.version, effective.text),
    ]
    assert effective.text.startswith("# rule half is in shadow instead of active since ")


def test_a_promotion_of_the_file_brakes_from_its_first_batch_on(stream: Stream) -> None:
    """Also when a long batch was read before the file changed."""
    consumer = stream.drain(BEFORE, 100)
    stream.publish(3_000)
    consumer = Consumer(stream.url, stream.topic, stream.flagged, RuleFile(stream.rules))
    stream.rules.write_text(PROMOTED)
    consumer.run(once=True)
    assert flagged_by(stream.url, "half") == []
    stream.publish(3_000)
    consumer.run(once=True)
    assert 0 < len(flagged_by(stream.url, "half")) <= PROBATION_LINES / 2


def test_an_override_outlives_restarts_and_reloads_until_it_is_lifted(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        consumer = stream.drain(PROMOTED, 400)
    assert "the brake put rule half back from active to shadow: it held for" in caplog.text
    assert [o.rule for o in consumer.in_use.overrides] == ["half"]
    flagged = flagged_by(stream.url, "half")
    stream.drain(PROMOTED + "# another comment\n", 400)
    assert flagged_by(stream.url, "half") == flagged
    assert "another comment" in query(stream.url, "SELECT text FROM rule_books ORDER BY number DESC")[0][0]

    for by, because in (("siti", " "), (" ", "it was right")):
        with pytest.raises(PlatformError, match="lifting an override needs"):
            lift_override(stream.url, "half", by, because)
    lift_override(stream.url, "half", "siti", "it was right")
    with pytest.raises(PlatformError, match="no override of a rule 'half' is in force"):
        lift_override(stream.url, "half", "siti", "it was right")
    assert list_overrides(stream.url) == []
    [lifted] = list_overrides(stream.url, lifted=True)
    assert (lifted.lifted_by, lifted.lifted_because) == ("siti", "it was right")

    stream.drain(PROMOTED, 2_000)
    again = set(flagged_by(stream.url, "half")) - set(flagged)
    assert 0 < len(again) <= PROBATION_LINES / 2, "the probation began again"
    assert [o.override.rule for o in list_overrides(stream.url)] == ["half"]


def test_lifting_an_override_takes_effect_in_a_running_consumer_in_short_batches(stream: Stream) -> None:
    stream.drain(PROMOTED, 400)
    before = len(flagged_by(stream.url, "half"))
    consumer = Consumer(stream.url, stream.topic, stream.flagged, RuleFile(stream.rules))
    stream.publish(1_000)
    consumer.run(once=True)
    assert consumer.in_use.max_lines(5_000) == 5_000, "a rule in shadow is not on probation"
    lift_override(stream.url, "half", "siti", "it was right")
    stream.publish(4_000)
    consumer.run(once=True)  # the first batch is long, and decided as before
    assert len(flagged_by(stream.url, "half")) == before
    stream.publish(4_000)
    consumer.run(once=True)
    assert before < len(flagged_by(stream.url, "half")) <= before + PROBATION_LINES / 2


def test_a_rule_as_rare_as_expected_ends_its_probation_and_is_never_pulled_later(stream: Stream) -> None:
    promoted = PROMOTED.replace("quantity = 2", "quantity = 50").replace("[0.001, 0.01]", "[0.01, 0.02]")
    [probation] = probations(RuleBook.parse(promoted))
    consumer = stream.drain(promoted, PROBATION_ORDERS - 1)
    assert consumer.in_use.max_lines(5_000) == PROBATION_LINES
    stream.publish(51)
    consumer.run(once=True)
    with closing(connect(stream.url)) as connection, connection.cursor() as cursor:
        total = read_progress(cursor, [probation])["half"]
    assert (total.orders, total.held) == (PROBATION_ORDERS + 50, PROBATION_ORDERS // 50 + 1)
    assert consumer.in_use.max_lines(5_000) == 5_000
    stream.topic.publish([encode(order(20_000 + n, quantity=50)) for n in range(500)])
    for _ in range(2):  # also after a restart, and when the lists change
        consumer.run(once=True)
        add_entry(stream.url, 1, "block", "a test")
        consumer = stream.drain(promoted, 10)
    assert list_overrides(stream.url) == []
    assert len(flagged_by(stream.url, "half")) > 700
    [(orders, held)] = query(stream.url, "SELECT orders, held FROM rule_probations")
    assert (orders, held) == (total.orders, total.held)


def test_review_rules_brake_too(stream: Stream) -> None:
    stream.drain(PROMOTED.replace("mode: active\n    exp", "mode: review\n    exp"), 600)
    [kept] = list_overrides(stream.url)
    assert (kept.override.mode, kept.override.held) == ("review", 100)
    reviewed = [o for o in in_order(stream.url) if "half" in o.review_reasons]
    assert len(reviewed) == 100


def test_three_consumers_of_a_queue_stop_the_rule_together(url: str) -> None:
    queue = MemoryQueue()
    queue.publish(lines(1, 5_000))
    consumers = [SharedConsumer(url, queue, None, BOOK) for _ in range(3)]
    with running(*consumers):
        deadline = time.monotonic() + 60
        while query(url, "SELECT count(*) FROM orders") != [(5_000,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    flagged = [o for o in stored_orders(url) if "half" in o.fraud_reasons]
    assert 0 < len(flagged) <= 3 * PROBATION_LINES / 2
    assert [o.override.rule for o in list_overrides(url)] == ["half"]
    decided = Counter(o.rules_version for o in stored_orders(url))
    assert decided[BOOK.version] <= 3 * PROBATION_LINES < 1_000
    assert len(decided) == 2
    assert query(url, "SELECT orders <= %s AND held * 2 <= orders FROM rule_probations", (600,)) == [(True,)]


def test_a_rule_that_is_lifted_again_and_again_is_stopped_each_time(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While three consumers work and the lists change; nobody waits in a circle."""
    queue = MemoryQueue()
    queue.publish(lines(1, 6_000))
    lifts = 0
    with running(*(SharedConsumer(url, queue, None, BOOK) for _ in range(3))):
        deadline = time.monotonic() + 60
        while query(url, "SELECT count(*) FROM orders") != [(6_000,)]:
            assert time.monotonic() < deadline
            with suppress(PlatformError):  # nothing is held back just now
                lift_override(url, "half", "siti", "a test")
                lifts += 1
            add_entry(url, 1, "block", "a test")
            time.sleep(0.02)
    assert lifts > 1
    flagged = [o for o in stored_orders(url) if "half" in o.fraud_reasons]
    assert len(flagged) <= (lifts + 1) * 3 * PROBATION_LINES / 2
    assert "PostgreSQL is away" not in caplog.text


@pytest.mark.parametrize("committed", [False, True])
def test_a_shared_consumer_that_dies_while_it_pulls_counts_its_batch_once(
    url: str, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The queue delivers its messages again."""
    queue = MemoryQueue()
    queue.publish(lines(1, 1_000))
    put = SharedOrderStore.put

    def dying(store: SharedOrderStore, *arguments: Any) -> set[int]:
        if committed:
            put(store, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SharedOrderStore, "put", dying)
        with pytest.raises(KeyboardInterrupt):
            SharedConsumer(url, queue, None, BOOK).run(once=True)
    assert len(list_overrides(url)) == int(committed)
    SharedConsumer(url, queue, None, BOOK, silence=0.1).run(once=True)
    [kept] = list_overrides(url)
    assert (kept.override.orders, kept.override.held) == (200, 100)
    assert query(url, "SELECT orders, held FROM rule_probations") == [(200, 100)]
    decided = Counter(o.rules_version for o in stored_orders(url))
    assert decided == {BOOK.version: 200, overridden(BOOK, [kept.override]).version: 800}


def test_overrides_are_changed_only_by_lifting_and_read_at_a_version(stream: Stream) -> None:
    stream.drain(PROMOTED, 400)
    for statement in (
        "UPDATE rule_overrides SET rule = 'rare'",
        "UPDATE rule_overrides SET lifted_at = now(), lifted_by = 'x', lifted_because = 'y', held = 0",
        "DELETE FROM rule_overrides",
    ):
        with pytest.raises(psycopg2.errors.RaiseException, match="never changed but once"):
            execute(stream.url, statement)
    [(version,)] = query(stream.url, "SELECT version FROM user_lists_version")
    lift_override(stream.url, "half", "siti", "a test")
    with closing(connect(stream.url)) as connection, connection.cursor() as cursor:
        versions = (version - 1, version, version + 1, None)
        found = [[override.rule for override in read_overrides(cursor, v)] for v in versions]
    assert found == [[], ["half"], [], []]
