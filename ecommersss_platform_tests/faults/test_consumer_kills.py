"""The consumer is killed with -9 again and again: nothing may be lost, doubled or changed.

Runs alternate between kills from outside at a random time and kills at the moments that are hard to hit that
way (see `run_consumer`). `ECOMMERSSS_FAULT_RUNS` sets how many runs there are.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from ecommersss_platform_tests.faults.traffic import (
    LOOKING_BACK,
    PRODUCTS,
    USERS,
    Traffic,
    change_lists,
    log_until_consuming,
    start_consumer,
    write_rules,
)
from ecommersss_platform_tests.support.shop import (
    add_products,
    add_users,
    assert_stored_exactly_once,
    open_shop,
    query,
)
from streaming.consumer import Consumer
from streaming.topics.jsonl import JsonlTopic

RUNS = int(os.environ.get("ECOMMERSSS_FAULT_RUNS", "12"))


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(60 + 10 * RUNS)
def test_kill_9_loses_nothing_and_doubles_nothing(database: str, tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}, {RUNS} runs")
    pick = random.Random(seed)
    open_shop(database, USERS, PRODUCTS)
    topic, flagged = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged", segment_bytes=200_000)
    traffic = Traffic(topic, seed)
    traffic.burst(500)
    book = write_rules(tmp_path)
    completed = 0
    with traffic.flowing():
        for run in range(RUNS):
            max_lines = pick.choice([1, 7, 100, 5000])
            change_lists(database, pick)
            log = ""
            if run % 2:
                # Each of the four moments in turn, after some batches.
                moment = 4 * pick.randrange(10) + run // 2 % 4
                process = start_consumer(database, tmp_path, max_lines, crash=moment)
            else:
                process = start_consumer(database, tmp_path, max_lines)
                if pick.random() < 0.8:
                    log = log_until_consuming(process)
                time.sleep(pick.random() * 0.3)
                process.kill()
            log += process.communicate(timeout=60)[1]
            assert process.returncode == -signal.SIGKILL, log
            completed += "completed the flagged stream" in log
    [(before,)] = query(database, "SELECT count(*) FROM orders")

    add_users(database, range(USERS + 1, USERS + 5))
    add_products(database, range(PRODUCTS + 1, PRODUCTS + 3))
    consumer = Consumer(database, topic, flagged, book)
    consumer.run(once=True)

    print(f"{traffic.lines:,} lines, {before:,} orders stored while being killed; then {consumer.summary()}")
    print(f"{completed} starts found lines missing in the flagged stream and completed it")
    assert before > 0, "the consumer was never alive long enough to store anything"
    assert completed > 0, "no kill hit between a commit and the end of its flagged lines"
    assert consumer.lag() == 0
    stored = assert_stored_exactly_once(database, topic, flagged, book)
    assert stored == traffic.valid
    held = {rule for (rule,) in query(database, "SELECT DISTINCT unnest(fraud_reasons) FROM orders")}
    assert held >= LOOKING_BACK, "the kills must meet rules that look back"
    waiting = query(
        database, "SELECT count(*) FROM rejected_orders WHERE missing_id > 0 AND retried_at IS NULL"
    )
    assert waiting == [(0,)]


@pytest.mark.faults
def test_sigterm_ends_in_time_and_leaves_nothing_half_done(database: str, tmp_path: Path) -> None:
    open_shop(database, USERS + 4, PRODUCTS + 2)
    topic, flagged = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")
    traffic = Traffic(topic, 1)
    traffic.burst(20_000)
    book = write_rules(tmp_path)
    process = start_consumer(database, tmp_path, 500)
    log = log_until_consuming(process)
    time.sleep(0.3)
    process.terminate()
    asked = time.monotonic()
    log += process.communicate(timeout=30)[1]
    assert time.monotonic() - asked < 2
    assert process.returncode == 0, log
    assert "consumer stopped" in log

    [(position, stored)] = query(
        database, "SELECT position, (SELECT count(*) FROM orders) FROM topic_positions"
    )
    assert stored > 0
    assert flagged.open_end()[1] == b""
    with flagged.reader(0) as reader:
        assert len(reader.read(100_000, 0)) > 0
    consumer = Consumer(database, topic, flagged, book)
    consumer.run(once=True)
    assert consumer.counters.orders + stored == len(traffic.valid)
    assert position > 0
    assert_stored_exactly_once(database, topic, flagged, consumer.book)
