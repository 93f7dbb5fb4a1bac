"""The consumer is killed with -9 around the batch that pulls a rule: that happens exactly once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ecommersss_platform_tests.faults.traffic import start_consumer
from ecommersss_platform_tests.support.shop import open_shop, order, query, read_all, stored_orders
from streaming.consumer import Consumer
from streaming.database.overrides import list_overrides
from streaming.orders import encode, encode_flagged
from streaming.rules import RuleBook
from streaming.rules.brake import LEAST_HELD
from streaming.topics.jsonl import JsonlTopic

BOOK = RuleBook.parse(
    "rules:\n  - {name: all, description: d, mode: active, expected_share: [0, 0.1], when: quantity > 0}\n"
)
LINES = 5
"""Of a batch."""
PULLED_AT = LEAST_HELD // LINES - 1
"""The number of the batch that pulls the rule, from 0."""


@pytest.mark.faults
@pytest.mark.parametrize("moment", range(4), ids=["before commit", "committed", "half written", "written"])
def test_a_kill_around_a_pull_neither_loses_nor_doubles_it(
    database: str, tmp_path: Path, moment: int
) -> None:
    open_shop(database)
    topic, flagged = JsonlTopic(tmp_path / "orders"), JsonlTopic(tmp_path / "flagged")
    topic.publish([encode(order(n)) for n in range(1, 41)])
    (tmp_path / "rules.yml").write_text(BOOK.text)
    process = start_consumer(database, tmp_path, LINES, crash=4 * PULLED_AT + moment)
    log = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL, log
    assert len(list_overrides(database)) == (0 if moment == 0 else 1), "the kill hit another batch"

    Consumer(database, topic, flagged, BOOK, max_lines=LINES).run(once=True)
    [kept] = list_overrides(database)
    assert (kept.override.orders, kept.override.held) == (LEAST_HELD, LEAST_HELD)
    assert query(database, "SELECT orders, held FROM rule_probations") == [(LEAST_HELD, LEAST_HELD)]
    orders = sorted(stored_orders(database), key=lambda o: o.position)
    assert [o.status for o in orders] == ["fraud"] * LEAST_HELD + ["genuine"] * (40 - LEAST_HELD)
    assert [o.rules_version == BOOK.version for o in orders] == [n <= LEAST_HELD for n in range(1, 41)]
    assert list(read_all(flagged).values()) == [encode_flagged(o) for o in orders]
