"""Traffic of every kind, and consumers to be killed, for the fault tests."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO

from ecommersss_platform_tests.support.project import PROJECT
from ecommersss_platform_tests.support.shop import NOON, order
from streaming.database.user_lists import add_entry, remove_entry
from streaming.errors import PlatformError
from streaming.lists import LISTS
from streaming.order_ids import OrderIds
from streaming.orders import encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics import Publisher

USERS, PRODUCTS = 40, 15
MALFORMED = [b"", b"{", b"\xff\xfe", b'{"id": 1}', b"[]", b"x" * 200]


class Traffic:
    """Orders of every kind, published in bursts, faster than they are consumed."""

    def __init__(self, topic: Publisher, seed: int, clock: Callable[[], float] = time.time) -> None:
        self.topic = topic
        self.lines = 0
        self.valid: set[int] = set()
        """Ids of all orders that must end in the database."""
        self._random = random.Random(seed)
        self._ids = OrderIds(clock)
        self._recent: list[bytes] = []
        self._clock = NOON
        self._user = 1

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
        if pick.random() < 0.5:
            # Somebody in a hurry, for the rules that count.
            self._clock += timedelta(seconds=pick.choice([0, 1]))
        else:
            # A tenth more users than there are yet: the rest arrives later.
            self._user = pick.randint(1, USERS + 4)
            self._clock += timedelta(seconds=pick.choice([0, 0, 1, 60, 900]))
        new = order(
            self._ids(),
            user_id=self._user,
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
            while not ended.wait(0.1):
                self.burst(self._random.choice([1, 5, 50, 200]))

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def jumping(seed: int, clock: Callable[[], float] = time.time) -> Callable[[], float]:
    """Return a wall clock that now and then jumps back by up to two days, and forth again."""
    pick, offset = random.Random(seed), 0.0

    def now() -> float:
        nonlocal offset
        if pick.random() < 0.2:
            offset = pick.choice([0, pick.random(), 3600, 2 * 24 * 3600])
        return clock() - offset

    return now


def write_rules(home: Path) -> RuleBook:
    """Write the shipped rules to HOME/rules.yml, the shadow ones as active, and return the book."""
    text = RULES_PATH.read_text().replace("mode: shadow", "mode: active")
    (home / "rules.yml").write_text(text)
    return RuleBook.parse(text)


LOOKING_BACK = {"rapid_orders", "spend_burst", "country_change", "first_order_too_big", "blacklisted_user"}


def change_lists(url: str, pick: random.Random) -> None:
    """Add or remove an entry of the user lists, as people and the platform do at any time."""
    user, name = pick.randint(1, USERS), pick.choice(LISTS)
    if pick.random() < 0.3:
        with suppress(PlatformError):  # nobody was on it
            remove_entry(url, user, name)
    else:
        add_entry(url, user, name, "a test", pick.choice([None, datetime.now(UTC) + timedelta(days=1)]))


def start_consumer(
    url: str,
    home: Path,
    max_lines: int,
    *,
    crash: int | None = None,
    clock: int | None = None,
    file_limit: int | None = None,
    pubsub: str | None = None,
    stderr: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start a consumer in a process of its own: see `run_consumer` for its options."""
    options = {"--crash": crash, "--clock": clock, "--file-limit": file_limit, "--pubsub": pubsub}
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ecommersss_platform_tests.faults.run_consumer"),
            *(str(home), str(max_lines)),
            *(f"{name}={value}" for name, value in options.items() if value is not None),
        ],
        cwd=PROJECT,
        env={**os.environ, "CONSUMER_URL": url},
        stderr=stderr,
        text=True,
    )


def log_until_consuming(process: subprocess.Popen[str]) -> str:
    """Wait until the consumer begins to consume, and return what it has logged."""
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if "consuming topic" in line:
            return log
    raise AssertionError(f"the consumer ended with {process.wait()} before it consumed anything:\n{log}")
