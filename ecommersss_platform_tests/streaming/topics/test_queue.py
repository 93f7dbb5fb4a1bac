"""Any queue that fills the protocol serves a shared consumer: shown with one in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecommersss_platform_tests.support.memory_queue import MemoryQueue
from ecommersss_platform_tests.support.shop import open_shop, order, query, read_all
from streaming.orders import decode_flagged, encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.shared_consumer import SharedConsumer
from streaming.topics import Queue
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

BOOK = RuleBook.load(RULES_PATH)


@pytest.fixture
def url(database: str) -> str:
    open_shop(database)
    return database


def consume(url: str, queue: Queue, stream: JsonlTopic) -> SharedConsumer:
    consumer = SharedConsumer(url, queue, stream, BOOK, max_lines=7, silence=0.0)
    consumer.run(once=True)
    return consumer


def test_a_shared_consumer_stores_the_orders_of_any_queue(url: str, tmp_path: Path) -> None:
    queue, stream = MemoryQueue(), JsonlTopic(tmp_path)
    queue.publish([*(encode(order(n, user_id=n % 10 + 1)) for n in range(1, 21)), b"no order"])
    counters = consume(url, queue, stream).counters
    assert (counters.orders, counters.rejected.total(), counters.batches) == (20, 1, 3)
    assert not queue.waiting
    assert query(url, "SELECT count(*) FROM orders") == [(20,)]
    assert [decode_flagged(line).id for line in read_all(stream).values()] == list(range(1, 21))
