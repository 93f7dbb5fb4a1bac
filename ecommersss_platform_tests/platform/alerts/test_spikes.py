"""What is unusual about the orders of the last hour, from their rows to the sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.alerts.brake import brake_pulled
from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import KINDS
from ecommersss_platform.alerts.spikes import (
    ALL,
    METHOD,
    OTHER,
    RULE,
    by_group,
    by_rule,
    rule_always,
    rule_silent,
    unusual,
    with_rejected,
)
from ecommersss_platform.alerts.usual import Count
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support import shop
from streaming.database import connect
from streaming.database.overrides import lift_override

NOW = datetime(2026, 3, 2, 5, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
BOOK = """\
rules:
  - {name: burst, description: Many, mode: active, when: user_orders_10m > 5}
  - {name: big, description: Big, mode: active, when: quantity > 100}
  - {name: tried, description: Tried, mode: shadow, when: quantity > 50}
"""


def test_orders_are_counted_by_hour_payment_method_and_rule() -> None:
    found = [
        {"day": 0, "payment_method": "OVO", "fraud_reasons": ["big", "burst"], "is_fraud": True, "orders": 2},
        {"day": 0, "payment_method": "OVO", "fraud_reasons": [], "is_fraud": False, "orders": 5},
        {"day": 1, "payment_method": "<b>Budi</b>", "fraud_reasons": ["big"], "is_fraud": True, "orders": 1},
    ]
    hours = by_group(found, frozenset({"big", "burst"}))
    assert {name: counts[:2] for name, counts in hours.items()} == {
        ALL: [Count(2, 7), Count(1, 1)],
        METHOD + "OVO": [Count(2, 7), Count(0, 0)],
        OTHER: [Count(0, 0), Count(1, 1)],
        RULE + "big": [Count(2, 7), Count(1, 1)],
        RULE + "burst": [Count(2, 7), Count(0, 1)],
    }
    assert {len(counts) for counts in hours.values()} == {29}


def test_rules_are_counted_by_day_with_those_that_flagged_nothing() -> None:
    found = [
        {"recent": True, "fraud_reasons": [], "orders": 90},
        {"recent": False, "fraud_reasons": ["big", "gone"], "orders": 10},
        {"recent": False, "fraud_reasons": [], "orders": 590},
    ]
    assert by_rule(found, frozenset({"big", "burst"})) == {
        "big": (Count(0, 90), Count(10, 600)),
        "burst": (Count(0, 90), Count(0, 600)),
    }


def test_rule_that_stops_or_flags_everything_is_told_with_its_figures() -> None:
    past = Count(300, 10_000)
    [problem] = rule_silent("big", {"hour": (Count(0, 100), past), "day": (Count(0, 2_000), past)})
    assert problem.summary.startswith(
        "the rule big flagged none of the 2,000 orders of the last day, and 60 were to be expected"
    )
    assert list(rule_silent("big", {"hour": (Count(1, 1_000), past)})) == []
    [problem] = rule_always("big", Count(80, 100), past)
    assert problem.summary.startswith(
        "the rule big flagged 80 of the last 100 orders, 80%, and 3.0% of those"
    )
    assert list(rule_always("big", Count(3, 100), past)) == []


def test_rejected_lines_are_a_share_of_all_lines() -> None:
    assert with_rejected([Count(9, 40), Count(0, 0)], {0: 10}) == [Count(10, 50), Count(0, 0)]


@pytest.fixture
def look(database: str, tmp_path: Path) -> Iterator[Look]:
    book = tmp_path / "rules.yml"
    book.write_text(BOOK)
    with closing(connect(database)) as connection:
        connection.autocommit = True
        yield Look(Settings(home=tmp_path, rules=book), NOW, LONG_AGO, _connection=connection)


class Orders:
    """Stores orders of a shop, numbered as they come."""

    def __init__(self, url: str) -> None:
        self._url, self._last = url, 0
        shop.open_shop(url)

    def add(self, count: int, at: datetime, reasons: Iterable[str] = (), method: str = "OVO") -> None:
        rows: list[tuple[Any, ...]] = []
        for _ in range(count):
            n = self._last = self._last + 1
            fraud = list(reasons)
            rows.append((n, 1, 1, 1, 1000, method, "ID", bool(fraud), fraud, [], "book", 0, at, at, n))
        columns = (
            "id, user_id, product_id, quantity, amount, payment_method, country, is_fraud, fraud_reasons,"
            " shadow_reasons, rules_version, lists_version, created_date, flagged_at, position"
        )
        shop.write(self._url, f"INSERT INTO orders ({columns}) VALUES %s", rows)

    def add_usual_days(self, days: int) -> None:
        """Add 60 orders of this hour, two by the rule `big`, and 30 of the hour before, to each day."""
        for day in range(1, days + 1):
            at = NOW - timedelta(days=day, minutes=30)
            self.add(58, at)
            self.add(2, at, ["big"])
            self.add(30, at - timedelta(hours=1), ["burst"])


def reject(url: str, lines: int, at: datetime) -> None:
    [(last,)] = shop.query(url, "SELECT coalesce(max(position), 0) FROM rejected_orders")
    rows = [(last + n, b"{", "not_json", "no JSON", at) for n in range(1, lines + 1)]
    shop.write(
        url, "INSERT INTO rejected_orders (position, raw, reason, detail, rejected_at) VALUES %s", rows
    )


@pytest.mark.integration
def test_ring_of_frauds_and_a_flood_of_bad_lines_are_told_until_they_are_over(
    look: Look, database: str
) -> None:
    orders = Orders(database)
    assert list(unusual(look)) == [], "an empty database"
    orders.add_usual_days(10)
    orders.add(58, NOW - timedelta(minutes=30))
    orders.add(2, NOW - timedelta(minutes=20), ["big"])
    reject(database, 1, NOW - timedelta(days=3, minutes=5))
    assert [p.kind for p in unusual(look)] == []

    orders.add(20, NOW - timedelta(minutes=5), ["burst"], method="Paylater")
    reject(database, 30, NOW - timedelta(minutes=5))
    found = {problem.kind: problem for problem in unusual(look)}
    assert found.keys() == {"fraud_spike", "rejected_spike"} <= KINDS.keys()
    assert "(all orders: 22 of 80, 27.5%, usually 3.3% and at most " in found["fraud_spike"].summary
    assert "; rule burst: 20 of 80, 25.0%, usually 0.0%" in found["fraud_spike"].summary
    assert "(30 of 110, 27.3%, usually 0.0% and at most " in found["rejected_spike"].summary

    assert list(unusual(replace(look, now=NOW + timedelta(hours=1)))) == []


@pytest.mark.integration
def test_rule_that_the_brake_held_back_is_told_until_it_is_lifted(look: Look, database: str) -> None:
    """It is not told as silent too."""
    orders = Orders(database)
    orders.add_usual_days(8)
    orders.add(600, NOW - timedelta(hours=3))
    assert [problem.subject for problem in unusual(look)] == ["burst"]
    pulled = (
        "INSERT INTO rule_overrides (rule, mode, expected_low, expected_high, orders, held, rules_version)"
        " VALUES ('burst', 'active', 0.001, 0.01, 400, 200, 'book')"
    )
    shop.execute(database, pulled)
    [problem] = brake_pulled(look)
    assert (problem.kind, problem.subject) == ("brake_pulled", "burst")
    assert "held for 200 of its first 400 orders (50.00%), and at most 1.00% were expected" in problem.summary
    assert problem.summary.endswith('`ecommersss rules overrides lift burst --reason "..."`')
    assert list(unusual(replace(look, memory={}))) == []
    lift_override(database, "burst", "Sari", "corrected")
    assert brake_pulled(look) == []


@pytest.mark.integration
def test_rule_that_flagged_some_orders_every_day_and_now_none_is_told(look: Look, database: str) -> None:
    orders = Orders(database)
    orders.add_usual_days(8)
    orders.add(600, NOW - timedelta(hours=3))
    [silent] = [problem for problem in unusual(look) if problem.subject == "burst"]
    assert silent.kind == "rule_silent"
    assert "none of the 600 orders of the last day" in silent.summary
    # `tried` is a shadow rule, and the book may have lost rules that flagged before.
    (look.settings.rules_path).write_text(BOOK.replace("burst", "another"))
    assert {problem.subject for problem in unusual(replace(look, memory={}))} <= {"big"}
