"""What becomes of simulated orders: shares, delays, rows that only advance, and hours that were missed."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import execute, open_shop, order, query, write
from streaming.business_days import JAKARTA, business_day
from streaming.database import connect
from streaming.simulator.aftermath import (
    LONGEST,
    LONGEST_GENUINE,
    STAGES,
    Aftermath,
    PastOrder,
    aftermath,
)
from streaming.simulator.ground_truth import GroundTruth
from streaming.simulator.history import simulate_aftermath
from streaming.simulator.shoppers import Placed
from streaming.simulator.tables import StoredAftermath

DAY = timedelta(days=1)
PLACED = datetime(2025, 6, 1, 20, 15, tzinfo=JAKARTA)
MANY = 20_000


def after(id: int, pattern: str | None = None) -> Aftermath:
    return aftermath(PastOrder(id, Decimal("99.99"), PLACED), pattern)


@cache
def fraudulent() -> list[Aftermath]:
    return [after(id, "rapid_fire") for id in range(MANY)]


@cache
def genuine() -> list[Aftermath]:
    return [after(id) for id in range(MANY)]


def share(count: int) -> float:
    return count / MANY


def test_aftermath_of_an_order_is_always_the_same() -> None:
    assert after(7) == after(7)
    assert after(7) != after(8)


def test_most_fraudulent_orders_are_disputed_after_5_to_45_days() -> None:
    disputes = [case.disputes for case in fraudulent() if case.disputes]
    assert share(len(disputes)) == pytest.approx(0.8, abs=0.02)
    for opened, decided in disputes:
        assert 5 * DAY <= opened.opened_at - PLACED <= 45 * DAY
        assert (opened.kind, opened.outcome, opened.decided_at) == ("fraud", "open", None)
        assert decided.decided_at is not None
        assert 10 * DAY <= decided.decided_at - opened.opened_at <= 30 * DAY
        assert decided == opened._replace(outcome=decided.outcome, decided_at=decided.decided_at)
    outcomes = Counter(decided.outcome for _, decided in disputes)
    assert outcomes["lost"] / outcomes.total() == pytest.approx(0.9, abs=0.02)


def test_few_genuine_orders_are_disputed_and_for_every_reason() -> None:
    kinds = Counter(case.disputes[0].kind for case in genuine() if case.disputes)
    assert set(kinds) == {"fraud", "not_received", "not_as_described"}
    assert share(kinds.total()) == pytest.approx(0.006, abs=0.003)
    assert all(not case.disputes for case in genuine() if case.shipments[-1].status == "cancelled")


def test_shipments_pass_their_stages_in_order_with_hours_between() -> None:
    last = Counter(case.shipments[-1].status for case in genuine())
    assert share(last["cancelled"]) == pytest.approx(0.03, abs=0.01)
    assert share(last["returned"]) == pytest.approx(0.04, abs=0.01)
    assert last.total() == last["cancelled"] + last["returned"] + last["delivered"]
    assert {case.shipments[-1].status for case in fraudulent()} == {"delivered"}
    for case in (*genuine(), *fraudulent()):
        stages = [STAGES.index(version.status) for version in case.shipments]
        assert stages == sorted(set(stages))
        moments = [version.at for version in case.shipments]
        assert all(later - earlier >= timedelta(hours=2) for earlier, later in pairwise(moments))
        assert moments[0] > PLACED
        assert all(0 <= version.refund_amount <= Decimal("99.99") for version in case.shipments)
        assert (case.shipments[-1].refund_amount > 0) == (
            case.shipments[-1].status in ("cancelled", "returned")
        )


def test_reviewers_decide_about_some_orders_and_are_mostly_right() -> None:
    for cases, right, reviewed in ((fraudulent(), "fraud", 0.15), (genuine(), "genuine", 0.01)):
        verdicts = Counter(case.verdicts[0].verdict for case in cases if case.verdicts)
        assert share(verdicts.total()) == pytest.approx(reviewed, abs=0.01)
        assert verdicts[right] / verdicts.total() == pytest.approx(0.97, abs=0.04)


def test_nothing_becomes_of_an_order_that_is_old_enough() -> None:
    assert max(v.at for case in fraudulent() for v in (*case.shipments, *case.disputes)) <= PLACED + LONGEST
    begun = [v.at for case in genuine() for v in (*case.shipments, *case.disputes[:1], *case.verdicts)]
    assert max(begun) <= PLACED + LONGEST_GENUINE


# In the database.

ORDERS = [PastOrder(id, Decimal(1_000 + id), PLACED + timedelta(minutes=7 * id)) for id in range(1, 401)]
PATTERNS = {item.id: "foreign_card" if item.id % 4 == 0 else None for item in ORDERS}
END = PLACED + timedelta(days=120)
TABLES = {
    "shipments": "order_id, status, packed_at, shipped_at, delivered_at, cancelled_at, returned_at,"
    " refund_amount",
    "disputes": "id, order_id, kind, amount, opened_at, outcome, decided_at",
}


@pytest.fixture
def shop(database: str) -> str:
    """A database with 400 orders, a quarter of them fraudulent, and one that was not simulated."""
    open_shop(database, users=1, products=1)
    write(
        database,
        "INSERT INTO orders VALUES %s",
        [
            (n, 1, 1, 1, amount, "OVO", "ID", False, [], [], "v", placed, placed, n, 0)
            for n, amount, placed in (*ORDERS, PastOrder(9_999, Decimal(5), PLACED))
        ],
    )
    return database


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.jsonl"
    GroundTruth(path).append(
        Placed(order(id, created_date=PLACED), pattern) for id, pattern in PATTERNS.items()
    )
    return path


def state(url: str) -> dict[str, list[tuple[object, ...]]]:
    rows = {
        f"{table}{suffix}": query(url, f"SELECT {columns}{dated} FROM {table}{suffix} ORDER BY 1, {order_by}")
        for table, columns in TABLES.items()
        for suffix, dated, order_by in (("", "", "2"), ("_history", ", valid_from", "valid_from"))
    }
    verdicts = "SELECT order_id, verdict, reviewer, decided_at, recorded_at FROM verdicts ORDER BY order_id"
    return {**rows, "verdicts": query(url, verdicts)}


@pytest.mark.integration
def test_every_version_is_stored_and_dated_in_its_hour(shop: str, truth: Path) -> None:
    stored = simulate_aftermath(shop, truth, END)
    expected = [aftermath(item, PATTERNS[item.id]) for item in ORDERS]
    assert stored == StoredAftermath(*(sum(map(len, versions)) for versions in zip(*expected, strict=True)))
    assert str(stored).endswith(f"{stored.verdicts:,} verdicts")
    assert query(shop, f"SELECT {TABLES['shipments']} FROM shipments ORDER BY 1") == [
        tuple(case.shipments[-1]) for case in expected
    ]
    assert query(shop, f"SELECT {TABLES['disputes']} FROM disputes ORDER BY 1") == [
        tuple(case.disputes[-1]) for case in expected if case.disputes
    ]
    for at, dated in query(shop, "SELECT coalesce(decided_at, opened_at), valid_from FROM disputes_history"):
        assert timedelta() <= dated - at < timedelta(hours=1)
        assert business_day(dated) == business_day(at)
    assert query(shop, "SELECT count(*) FROM shipments WHERE order_id = 9999") == [(0,)]
    assert simulate_aftermath(shop, truth, END) == StoredAftermath(0, 0, 0)


@pytest.mark.integration
def test_hours_that_were_missed_change_nothing(shop: str, truth: Path) -> None:
    for days in (0.3, 1, 2, 2.5, 9, 26, 33, 60):
        simulate_aftermath(shop, truth, PLACED + timedelta(days=days))
    simulate_aftermath(shop, truth, END)
    step_by_step = state(shop)
    with closing(connect(shop, "test")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE shipments, shipments_history, disputes, disputes_history, verdicts RESTART IDENTITY"
        )
    simulate_aftermath(shop, truth, END)
    # Only the end of a call that is not the end of an hour dates a version differently.
    assert {name: len(rows) for name, rows in step_by_step.items()} == {
        name: len(rows) for name, rows in state(shop).items()
    }
    assert [step_by_step[name] for name in TABLES] == [state(shop)[name] for name in TABLES]


@pytest.mark.integration
def test_rows_that_a_person_advanced_stay(shop: str, truth: Path) -> None:
    simulate_aftermath(shop, truth, PLACED + timedelta(days=12))
    now = datetime.now(UTC)
    execute(shop, "UPDATE shipments SET status = 'cancelled', cancelled_at = %s WHERE order_id < 20", [now])
    execute(shop, "UPDATE disputes SET outcome = 'won', decided_at = %s", [now])
    before = query(shop, "SELECT id, outcome, decided_at FROM disputes ORDER BY id")
    simulate_aftermath(shop, truth, END)
    assert query(shop, "SELECT DISTINCT status FROM shipments WHERE order_id < 20") == [("cancelled",)]
    after = query(shop, "SELECT id, outcome, decided_at FROM disputes ORDER BY id")
    assert before
    assert set(before) <= set(after)
