"""The consumer is killed with -9 again and again; nothing may be lost, doubled or changed.

Runs alternate between kills from outside at a random time and kills at the moments that are hard to hit that
way (see `run_consumer`). `ECOMMERSSS_FAULT_RUNS` sets how many runs there are.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ecommersss_platform_tests.project import PROJECT
from ecommersss_platform_tests.shop import (
    NOON,
    add_products,
    add_users,
    assert_stored_exactly_once,
    open_shop,
    order,
    query,
)
from streaming.consumer import Consumer
from streaming.errors import PlatformError
from streaming.lists import LISTS, add_entry, remove_entry
from streaming.orders import OrderIds, encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic

RUNS = int(os.environ.get("ECOMMERSSS_FAULT_RUNS", "20"))
USERS, PRODUCTS = 40, 15
MALFORMED = [b"", b"{", b"\xff\xfe", b'{"id": 1}', b"[]", b"x" * 200]


class Traffic:
    """Orders of every kind, published in the background in bursts, faster than they are consumed."""

    def __init__(self, topic: JsonlTopic, seed: int) -> None:
        self.topic = topic
        self.lines = 0
        self.valid: set[int] = set()
        """Ids of all orders that must end in the database."""
        self._random = random.Random(seed)
        self._ids = OrderIds()
        self._recent: list[bytes] = []
        self._clock = NOON

    def burst(self, count: int) -> None:
        lines = [self._line() for _ in range(count)]
        self.topic.publish(lines)
        self.lines += count

    def _line(self) -> bytes:
        pick = self._random
        kind = pick.random()
        if kind < 0.03:
            return pick.choice(MALFORMED)
        if kind < 0.08 and self._recent:
            return pick.choice(self._recent)
        self._clock += timedelta(seconds=pick.choice([0, 0, 1, 60, 900]))
        new = order(
            self._ids(),
            # A tenth more users and products than there are yet: the rest arrives later.
            user_id=pick.randint(1, USERS + 4),
            product_id=pick.randint(1, PRODUCTS + 2),
            quantity=pick.choice([1, 2, 100, 101, 301]),
            amount=Decimal(pick.choice([3000, 50_000_000, 50_000_001, 300_000_000])),
            payment_method=pick.choice(["OVO", "Bank Transfer", "tab\\t {} 火"]),
            country=pick.choice(["ID", "ID", "ID", "SG"]),
            # Mostly on the clock, which goes fast; some late, of a day before, or at the same instant.
            created_date=self._clock - timedelta(hours=pick.choice([0, 0, 0, 0, 0, 0, 1, 5, 24, 60])),
        )
        self.valid.add(new.id)
        line = encode(new)
        self._recent = [*self._recent[-200:], line]
        return line

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Bursts of 1 to 200 lines for as long as the block lasts."""
        ended = threading.Event()

        def flow() -> None:
            while not ended.wait(0.02):
                self.burst(self._random.choice([1, 5, 50, 200]))

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def write_rules(home: Path) -> RuleBook:
    """The shipped rules, those that look back as active as the others."""
    text = RULES_PATH.read_text().replace("mode: shadow", "mode: active")
    (home / "rules.yml").write_text(text)
    return RuleBook.parse(text)


LOOKING_BACK = {"rapid_orders", "spend_burst", "country_change", "first_order_too_big", "blacklisted_user"}


def change_lists(url: str, pick: random.Random) -> None:
    """Block, allow or take off someone, as people and the platform do at any time."""
    user, name = pick.randint(1, USERS), pick.choice(LISTS)
    if pick.random() < 0.3:
        with suppress(PlatformError):  # nobody was on it
            remove_entry(url, user, name)
    else:
        add_entry(url, user, name, "a test", pick.choice([None, datetime.now(UTC) + timedelta(days=1)]))


def start(url: str, home: Path, max_lines: int, *crash: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ecommersss_platform_tests.faults.run_consumer"),
            *(str(home), str(max_lines), *map(str, crash)),
        ],
        cwd=PROJECT,
        env={**os.environ, "CONSUMER_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    )


def log_until_consuming(process: subprocess.Popen[str]) -> str:
    """Wait until the consumer has recovered and begins; returns what it has logged."""
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if "consuming topic" in line:
            return log
    pytest.fail(f"the consumer ended with {process.wait()} before it consumed anything:\n{log}")


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
                process = start(database, tmp_path, max_lines, 4 * pick.randrange(10) + run // 2 % 4)
            else:
                process = start(database, tmp_path, max_lines)
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
    process = start(database, tmp_path, 500)
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
