"""The fraud consumer on a real server, from a line in the topic to the row and the flagged line."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg2
import pytest

from ecommersss_platform_tests.support.shop import (
    NOON,
    add_products,
    add_users,
    assert_stored_exactly_once,
    execute,
    open_shop,
    order,
    query,
    read_all,
)
from streaming import consumer_loop
from streaming.consumer import Consumer
from streaming.consumer_loop import passes_by_waiting
from streaming.database.store import OrderStore
from streaming.errors import PlatformError
from streaming.orders import decode_flagged, encode
from streaming.rejected import list_rejected, retry_rejected
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

BOOK = RuleBook.load(RULES_PATH)


class Stream:
    """A shop, its two topics, and consumers of them."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.topic = JsonlTopic(home / "orders")
        self.flagged = JsonlTopic(home / "flagged")

    def consumer(self) -> Consumer:
        return Consumer(self.url, self.topic, self.flagged, BOOK)

    def drain(self) -> Consumer:
        consumer = self.consumer()
        consumer.run(once=True)
        return consumer

    @contextmanager
    def running(self) -> Iterator[Consumer]:
        """Run a consumer. Fails if it raises, or takes two seconds to stop."""
        consumer = self.consumer()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                consumer.run()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield consumer
        finally:
            consumer.stop()
            asked = time.monotonic()
            thread.join(10)
            if failure:
                raise failure[0]
            assert time.monotonic() - asked < 2

    def ids(self) -> list[int]:
        return [id for (id,) in query(self.url, "SELECT id FROM orders ORDER BY position")]

    def reasons(self) -> list[str]:
        return [r for (r,) in query(self.url, "SELECT reason FROM rejected_orders ORDER BY position")]


@pytest.fixture
def stream(database: str, tmp_path: Path) -> Stream:
    open_shop(database)
    return Stream(database, tmp_path)


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.01)


def test_every_line_becomes_an_order_a_rejected_line_or_a_counted_duplicate(stream: Stream) -> None:
    stream.topic.publish(
        [
            encode(order(1)),
            b"no order",
            encode(order(2, country="SG", quantity=301)),
            encode(order(1)),
            encode(order(1, quantity=3)),
            encode(order(3, user_id=99)),
            encode(order(4, product_id=99)),
        ]
    )
    consumer = stream.drain()

    assert stream.ids() == [1, 2]
    assert stream.reasons() == ["malformed_json", "duplicate_id", "unknown_user", "unknown_product"]
    fraud = query(stream.url, "SELECT fraud_reasons, rules_version, position FROM orders WHERE is_fraud")
    assert fraud == [(["foreign_country", "extreme_order"], BOOK.version, list(read_all(stream.topic))[2])]
    [first, second] = [decode_flagged(line) for line in read_all(stream.flagged).values()]
    assert (first.id, first.status, second.id, second.status) == (1, "genuine", 2, "fraud")
    assert (consumer.counters.orders, consumer.counters.fraud, consumer.counters.duplicates) == (2, 1, 1)
    assert consumer.counters.fraud_by_rule == {"foreign_country": 1, "extreme_order": 1}
    assert consumer.lag() == 0
    assert consumer.summary() == (
        "2 orders, 1 of them fraud; 4 lines rejected (duplicate_id 1, malformed_json 1, unknown_product 1,"
        " unknown_user 1); 1 duplicates; 1 batches; 0 bytes behind"
    )
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_a_consumer_resumes_where_the_last_one_stopped(stream: Stream) -> None:
    stream.topic.publish([encode(order(1))])
    stream.drain()
    stream.topic.publish([encode(order(2))])
    again = stream.drain()
    assert (stream.ids(), again.counters.orders) == ([1, 2], 1)
    assert again.position == stream.topic.end()
    assert stream.drain().counters.batches == 0


def test_ids_that_an_earlier_batch_stored_are_duplicates_or_rejected(stream: Stream) -> None:
    stream.topic.publish([encode(order(i)) for i in (1, 2, 3)])
    stream.drain()
    for _ in range(2):  # the second time the consumer looks before it stores
        stream.topic.publish([encode(order(2)), encode(order(3, quantity=9)), encode(order(4))])
    consumer = stream.consumer()
    consumer._max_lines = 3
    consumer.run(once=True)
    assert stream.ids() == [1, 2, 3, 4]
    assert consumer.counters.duplicates == 3
    assert stream.reasons() == ["duplicate_id", "duplicate_id"]
    assert consumer.counters.batches == 2
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_an_order_waits_for_its_user_and_then_its_product(stream: Stream) -> None:
    stream.topic.publish([encode(order(1, user_id=99, product_id=98)), encode(order(2))])
    stream.drain()
    add_users(stream.url, [99])
    assert stream.drain().counters.rejected == {"unknown_product": 1}
    assert stream.drain().counters.retried == 0
    add_products(stream.url, [98])
    assert stream.drain().counters.orders == 1

    assert stream.ids() == [2, 1]
    waiting = query(stream.url, "SELECT reason, retried_at IS NULL FROM rejected_orders ORDER BY position")
    assert waiting == [("unknown_user", False), ("unknown_product", False)]
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_a_running_consumer_stores_at_once_and_retries_what_waited(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_loop, "_BUSY_RETRY_SECONDS", 0.5)
    with stream.running() as consumer:
        eventually(lambda: consumer._reader is not None)
        stream.topic.publish([encode(order(1)), encode(order(2, user_id=99))])
        # Milliseconds on an idle machine.
        eventually(lambda: stream.ids() == [1], 3)
        eventually(lambda: len(read_all(stream.flagged)) == 1, 3)
        add_users(stream.url, [99])
        eventually(lambda: stream.ids() == [1, 2])
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_a_user_removed_after_it_was_seen_makes_the_order_wait(stream: Stream) -> None:
    with stream.running():
        for n in range(1, 4):  # until the cache keeps users from batch to batch
            stream.topic.publish([encode(order(n, user_id=2))])
            eventually(lambda n=n: len(stream.ids()) == n)
        execute(stream.url, "DELETE FROM orders; DELETE FROM users WHERE id = 2")
        stream.topic.publish([encode(order(9, user_id=2)), encode(order(10))])
        eventually(lambda: stream.ids() == [10])
    assert stream.reasons() == ["unknown_user"]


def test_a_connection_that_breaks_at_any_statement_costs_nothing(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends right before or right after a commit, which leaves the outcome unknown."""
    commit = OrderStore.commit
    calls = 0

    def breaking(self: OrderStore, *args: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 1:
            execute(stream.url, "SELECT pg_terminate_backend(%s)", (self.connection.info.backend_pid,))
        commit(self, *args, **options)  # type: ignore[arg-type]
        if calls % 3 == 2:
            raise psycopg2.OperationalError("the answer to COMMIT was lost")

    monkeypatch.setattr(OrderStore, "commit", breaking)
    stream.topic.publish([encode(order(i)) for i in range(1, 31)])
    consumer = stream.consumer()
    consumer._max_lines = 4
    consumer.run(once=True)
    assert stream.ids() == list(range(1, 31))
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_stop_ends_the_wait_for_a_server_that_is_away(stream: Stream) -> None:
    away = Stream("postgresql://nobody@127.0.0.1:1/none", stream.topic.directory.parent)
    with away.running():
        time.sleep(0.3)


def test_stop_does_not_wait_for_a_server_that_hangs(stream: Stream) -> None:
    consumer = stream.consumer()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            consumer.run()
        except PlatformError as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: consumer._reader is not None)
    backend = consumer.store.connection.info.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        stream.topic.publish([encode(order(1))])
        time.sleep(0.2)
        consumer.stop()
        thread.join(2)
        assert not thread.is_alive()
        assert "did not finish the current batch" in str(failure[0])
    finally:
        os.kill(backend, signal.SIGCONT)
    eventually(lambda: consumer.store._connection is None)
    stream.drain()
    assert stream.ids() == [1]
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_a_topic_that_was_cut_goes_on_and_loses_nothing(stream: Stream) -> None:
    stream.topic.publish([encode(order(i)) for i in range(1, 6)])
    stream.drain()
    path = stream.topic.path(0)
    path.write_bytes(b"".join(encode(order(i)) + b"\n" for i in (1, 7)))
    consumer = stream.drain()
    assert (consumer.counters.orders, consumer.counters.duplicates) == (1, 0), "order 1 is not read again"
    stream.topic.publish([encode(order(8))])
    stream.drain()
    assert stream.ids() == [1, 2, 3, 4, 5, 7, 8]
    assert [decode_flagged(line).id for line in read_all(stream.flagged).values()] == [1, 2, 3, 4, 5, 7, 8]


@pytest.mark.parametrize("segment_bytes", [64 << 20, 500])
def test_a_topic_whose_lost_end_was_filled_with_other_orders_is_read_again(
    stream: Stream, segment_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    stream.topic = JsonlTopic(stream.topic.directory, segment_bytes)
    for number in range(10, 30):
        stream.topic.publish([encode(order(number))])
    stream.drain()
    lost, end = stream.topic.segments()[-1], stream.topic.end()
    line = len(encode(order(10))) + 1
    if stream.topic.segments()[1:]:
        stream.topic.path(lost).unlink()
        lost = stream.topic.segments()[-1]
    os.truncate(stream.topic.path(lost), line)
    for number in range(50, 80):
        stream.topic.publish([encode(order(number))])
    assert stream.topic.end() > end
    consumer = stream.drain()
    assert (consumer.counters.orders, consumer.counters.duplicates) == (30, 0)
    assert f"Its lines after position {lost + line}, the last order that" in caplog.text
    assert stream.ids() == [*range(10, 30), *range(50, 80)]
    flagged = [decode_flagged(line).id for line in read_all(stream.flagged).values()]
    assert flagged == stream.ids()
    caplog.clear()
    stream.topic.publish([encode(order(80))])
    assert stream.drain().counters.orders == 1
    assert stream.drain().counters.orders == 0
    assert "read again" not in caplog.text


def test_a_position_moved_by_hand_and_a_line_removed_by_age_are_no_lost_end(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    stream.topic = JsonlTopic(stream.topic.directory, 100)
    for number in (1, 2, 3):
        stream.topic.publish([encode(order(number))])
    stream.drain()
    execute(stream.url, "UPDATE topic_positions SET position = 0")
    assert stream.drain().counters.duplicates == 3
    stream.topic.publish([encode(order(4))])
    for segment in stream.topic.segments()[:-1]:
        stream.topic.path(segment).unlink()
    assert stream.drain().counters.orders == 1
    assert "read again" not in caplog.text


def test_a_topic_removed_under_a_running_consumer_goes_on(stream: Stream) -> None:
    with stream.running() as consumer:
        stream.topic.publish([encode(order(1))])
        eventually(lambda: consumer.counters.orders == 1)
        stream.topic.path(0).unlink()
        stream.topic.publish([encode(order(2, payment_method="Bank Transfer"))])
        eventually(lambda: stream.ids() == [1, 2])
        stream.topic.publish([encode(order(3))])
        eventually(lambda: stream.ids() == [1, 2, 3])


def test_a_flagged_stream_removed_under_a_running_consumer_is_rewritten(stream: Stream) -> None:
    with stream.running() as consumer:
        stream.topic.publish([encode(order(1))])
        eventually(lambda: len(read_all(stream.flagged)) == 1)
        stream.flagged.path(0).unlink()
        stream.topic.publish([encode(order(2))])
        eventually(lambda: len(read_all(stream.flagged)) == 2)
        assert consumer.counters.orders == 2
    assert_stored_exactly_once(stream.url, stream.topic, stream.flagged, BOOK)


def test_a_full_disk_under_the_database_stops_it(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: OrderStore, *args: object, **options: object) -> None:
        raise psycopg2.errors.DiskFull('could not extend file "base/16384/16402": No space left on device')

    stream.topic.publish([encode(order(1))])
    with monkeypatch.context() as patched:
        patched.setattr(OrderStore, "commit", full)
        with pytest.raises(PlatformError, match=r"nothing was stored: could not extend file"):
            stream.drain()
    stream.drain()
    assert stream.ids() == [1]


def test_a_wrong_password_or_database_is_not_waited_for(stream: Stream) -> None:
    place = stream.url.rpartition("/")[0]
    with pytest.raises(PlatformError, match=r'database "nothing_here" does not exist'):
        Stream(f"{place}/nothing_here", stream.topic.directory.parent).drain()
    wrong = stream.url.replace("@", "wrong@")
    with pytest.raises(PlatformError, match="authentication failed"):
        Stream(wrong, stream.topic.directory.parent).drain()


def test_which_errors_pass_by_waiting() -> None:
    assert passes_by_waiting(psycopg2.OperationalError("connection refused"))
    assert passes_by_waiting(psycopg2.OperationalError("FATAL:  the database system is starting up"))
    assert passes_by_waiting(psycopg2.InterfaceError("connection already closed"))
    assert not passes_by_waiting(psycopg2.OperationalError('FATAL:  role "x" does not exist'))
    assert not passes_by_waiting(psycopg2.errors.DiskFull("no space left"))
    assert not passes_by_waiting(psycopg2.ProgrammingError("syntax error"))


def test_the_log_holds_no_personal_data(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = b'{"id": 5, "user_id": 1, "email": "siti@example.com", "country": "Siti Rahayu"}'
    stream.topic.publish([encode(order(1)), secret, encode(order(1, payment_method="Siti Rahayu"))])
    stream.drain()
    assert stream.reasons() == ["missing_field", "duplicate_id"]
    everything = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    assert "batch stored" in everything
    assert "Siti" not in everything
    assert "siti@" not in everything


class TestRejectedLines:
    def test_the_list_is_newest_first_and_safe_on_a_terminal(self, stream: Stream) -> None:
        nasty = b"\x1b[31mred\x1b[0m \xff tab\t \xe2\x80\xae" + "火".encode()
        stream.topic.publish([b"{", nasty, b"y" * 70_000])
        stream.drain()
        [long, escapes, brace] = list_rejected(stream.url)
        assert (brace.raw, brace.reason, escapes.raw) == (b"{", "malformed_json", nasty)
        assert escapes.as_row()["raw"] == "\\x1b[31mred\\x1b[0m \\xff tab\\t \\u202e火"
        assert long.reason == "line_too_long"
        assert long.as_row()["raw"] == "y" * 300 + "… (65,537 bytes)"
        assert brace.as_row()["retried_at"] is None
        assert str(brace.as_row()["rejected_at"]).endswith("+07:00")
        assert [r.position for r in list_rejected(stream.url, limit=2)] == [long.position, escapes.position]

    def test_retry_publishes_again_and_invalid_lines_are_rejected_again(self, stream: Stream) -> None:
        stream.topic.publish([b"{", encode(order(1, user_id=99)), b"]"])
        stream.drain()
        add_users(stream.url, [99])
        assert retry_rejected(stream.url, stream.topic) == 3
        assert retry_rejected(stream.url, stream.topic) == 0
        assert stream.drain().counters.rejected == {"malformed_json": 2}
        assert stream.ids() == [1]
        rows = list_rejected(stream.url)
        assert [(r.raw, r.retried_at is None) for r in rows][:2] == [(b"]", True), (b"{", True)]
        assert all(r.retried_at is not None for r in rows[2:])
        assert len(rows) == 5

    def test_retry_of_named_positions(self, stream: Stream) -> None:
        stream.topic.publish([b"{", b"[", b"]"])
        stream.drain()
        brace, bracket, _ = sorted(read_all(stream.topic))
        assert retry_rejected(stream.url, stream.topic, [bracket]) == 1
        assert retry_rejected(stream.url, stream.topic, [bracket, bracket]) == 1, "also one retried before"
        end = stream.topic.end()
        with pytest.raises(PlatformError, match=rf"position {end}, 77: nothing was published"):
            retry_rejected(stream.url, stream.topic, [brace, end, 77])
        assert list(read_all(stream.topic).values())[3:] == [b"[", b"["]

    def test_nothing_to_retry_publishes_nothing(self, stream: Stream) -> None:
        assert retry_rejected(stream.url, stream.topic) == 0
        assert retry_rejected(stream.url, stream.topic, []) == 0
        assert stream.topic.end() == 0


def test_prices_decide_as_of_the_order(stream: Stream, tmp_path: Path) -> None:
    """An order placed before a price went up is judged by the earlier price."""
    book = RuleBook.parse(
        "rules: [{name: p, description: d, mode: active, when: amount <> quantity * list_price}]", "p.yml"
    )
    execute(
        stream.url,
        "SELECT set_config('ecommersss.clock', '2026-03-02T05:00:00Z', true);"
        " UPDATE products SET price = 2000 WHERE id = 1",
    )
    before = NOON.replace(hour=4)
    stream.topic.publish(
        [
            encode(order(1, created_date=before)),
            encode(order(2)),
            encode(order(3, amount=Decimal(4000), created_date=before)),
            encode(order(4, amount=Decimal(4000))),
        ]
    )
    consumer = Consumer(stream.url, stream.topic, stream.flagged, book)
    consumer.run(once=True)
    assert query(stream.url, "SELECT id, is_fraud FROM orders ORDER BY id") == [
        (1, False),
        (2, True),
        (3, True),
        (4, False),
    ]


def test_stopping_takes_no_longer_than_promised() -> None:
    assert consumer_loop.STOP_SECONDS < 2
