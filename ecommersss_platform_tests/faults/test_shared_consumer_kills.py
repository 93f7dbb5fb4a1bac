"""Three consumers of Pub/Sub at a time are killed with -9, again and again: nothing may be lost or doubled.

Each run starts three, which kill themselves at the moments that are hard to hit from outside (see
`run_consumer`) or are killed at a random time. `ECOMMERSSS_FAULT_RUNS` sets how many runs there are:
one for every five of it, because what a dead consumer held comes again only after seconds.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from ecommersss_platform_tests.faults.traffic import (
    MALFORMED,
    PRODUCTS,
    USERS,
    Traffic,
    change_lists,
    start_consumer,
    write_rules,
)
from ecommersss_platform_tests.support import pubsub_emulator as emulator
from ecommersss_platform_tests.support.consumers import running
from ecommersss_platform_tests.support.shop import (
    add_products,
    add_users,
    assert_judged_as_if_undisturbed,
    open_shop,
    query,
    read_all,
    stored_orders,
)
from streaming.orders import encode_flagged
from streaming.shared_consumer import SharedConsumer
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.pubsub import PubSubTopic

pytestmark = [
    pytest.mark.pubsub,
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(bool(emulator.missing()), reason=str(emulator.missing())),
]

ROUNDS = max(2, int(os.environ.get("ECOMMERSSS_FAULT_RUNS", "10")) // 5)


class Recorded:
    """Publishes, and keeps what was published."""

    def __init__(self, topic: PubSubTopic) -> None:
        self.topic = topic
        self.lines: list[bytes] = []

    def publish(self, lines: Iterable[bytes]) -> None:
        lines = list(lines)
        self.topic.publish(lines)
        self.lines += lines


def consume_until_stored(consumer: SharedConsumer, database: str, traffic: Traffic) -> None:
    """Let the consumer work until every valid order is stored, or for four minutes."""
    with running(consumer):
        deadline = time.monotonic() + 240
        while query(database, "SELECT count(*) FROM orders") != [(len(traffic.valid),)]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # What is leased to the dead comes again, even if all orders are stored by then.
        time.sleep(emulator.STREAM_SECONDS + emulator.LEASE_SECONDS)


@pytest.mark.timeout(300 + 60 * ROUNDS)
def test_kill_9_of_three_consumers_loses_nothing_and_doubles_nothing(
    database: str, pubsub: str, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}, {ROUNDS} runs")
    pick = random.Random(seed)
    open_shop(database, USERS, PRODUCTS)
    book = write_rules(tmp_path)
    flagged = JsonlTopic(tmp_path / "flagged", segment_bytes=100_000)
    with emulator.emulated(pubsub, streams_end=True) as topic:
        recorded = Recorded(topic)
        traffic = Traffic(recorded, seed)
        died = 0
        for run in range(ROUNDS):
            traffic.burst(400)
            # Each of the four moments is hit by one of the three, after a few batches.
            moments = [4 * pick.randrange(4) + (run + n) % 4 for n in range(3)]
            processes = [
                start_consumer(
                    database, tmp_path, pick.choice([5, 50, 500]), crash=moment, pubsub=topic.topic
                )
                for moment in moments
            ]
            deadline = time.monotonic() + 6 + pick.random()
            while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
                change_lists(database, pick)
                traffic.burst(20)
                time.sleep(0.2)
            died += sum(p.poll() is not None for p in processes)
            for process in processes:
                process.kill()
                log = process.communicate(timeout=60)[1]
                assert process.returncode == -signal.SIGKILL, log
        [(before,)] = query(database, "SELECT count(*) FROM orders")

        add_users(database, range(USERS + 1, USERS + 5))
        add_products(database, range(PRODUCTS + 1, PRODUCTS + 3))
        consumer = SharedConsumer(database, topic, flagged, book)
        consume_until_stored(consumer, database, traffic)
    print(f"{traffic.lines:,} lines, {before:,} orders stored while being killed, {died} died by themselves")
    print(f"then {consumer.summary()}")
    assert before > 0, "the consumers were never alive long enough to store anything"
    assert died > 0, "no consumer reached the moment at which it was to die"

    orders = sorted(stored_orders(database), key=lambda o: o.position)
    assert {o.id for o in orders} == traffic.valid
    assert_judged_as_if_undisturbed(database, orders, book)
    decided = {reason for order in orders for reason in order.fraud_reasons}
    assert {"spend_burst", "country_change", "blacklisted_user"} <= decided
    assert list(read_all(flagged).values()) == [encode_flagged(o) for o in orders]
    rejected = query(database, "SELECT raw FROM rejected_orders WHERE missing_id IS NULL")
    assert Counter(bytes(raw) for (raw,) in rejected) == Counter(
        line for line in recorded.lines if line in MALFORMED
    )
    waiting = query(
        database, "SELECT count(*) FROM rejected_orders WHERE missing_id > 0 AND retried_at IS NULL"
    )
    assert waiting == [(0,)]


def test_sigterm_ends_a_consumer_in_time_and_its_messages_go_to_another(
    database: str, pubsub: str, tmp_path: Path
) -> None:
    open_shop(database, USERS + 4, PRODUCTS + 2)
    book = write_rules(tmp_path)
    flagged = JsonlTopic(tmp_path / "flagged")
    with emulator.emulated(pubsub, streams_end=True) as topic:
        traffic = Traffic(topic, 1)
        traffic.burst(2_000)
        process = start_consumer(database, tmp_path, 20, pubsub=topic.topic)
        deadline = time.monotonic() + 60
        while query(database, "SELECT count(*) < 200 FROM orders") == [(True,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        asked = time.monotonic()
        log = process.communicate(timeout=30)[1]
        assert time.monotonic() - asked < 2
        assert process.returncode == 0, log
        assert "consumer stopped" in log

        consume_until_stored(SharedConsumer(database, topic, flagged, book), database, traffic)
    assert {o.id for o in stored_orders(database)} == traffic.valid
    in_order = sorted(stored_orders(database), key=lambda o: o.position)
    assert list(read_all(flagged).values()) == [encode_flagged(o) for o in in_order]
