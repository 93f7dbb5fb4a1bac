"""Imports of shipments, disputes and verdicts: versions, repetition, unknown orders, impossible rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import add_orders, execute, open_shop, query
from streaming.imports import Imported, InvalidFile, import_file

pytestmark = pytest.mark.integration

SHIPMENTS = "order_id,status,packed_at,shipped_at,delivered_at,refund_amount\n"
DISPUTES = "id,order_id,kind,amount,opened_at,outcome,decided_at\n"
VERDICTS = "order_id,verdict,reviewer,note,decided_at\n"
PACKED, SHIPPED = datetime(2026, 3, 2, 6, tzinfo=UTC), datetime(2026, 3, 3, 2, tzinfo=UTC)


@pytest.fixture
def shop(database: str) -> str:
    """A database with the orders 1 to 3."""
    open_shop(database, users=1, products=1)
    add_orders(database, [1, 2, 3])
    return database


@pytest.fixture
def load(shop: str, tmp_path: Path):
    def load(entity: str, text: str, *, backdate: bool = False) -> Imported:
        path = tmp_path / f"{entity}.csv"
        path.write_text(text)
        return import_file(shop, entity, path, backdate=backdate)

    return load


def test_a_shipment_has_a_version_for_each_change(shop: str, load) -> None:
    packed = SHIPMENTS + "1,packed,2026-03-02 13:00,,,\n2,packed,2026-03-02 13:00,,,\n"
    assert load("shipments", packed) == Imported(2, 0, 0)
    assert load("shipments", packed) == Imported(0, 0, 2)
    shipped = SHIPMENTS + "1,shipped,2026-03-02 13:00,2026-03-03 09:00,,\n2,packed,2026-03-02 13:00,,,\n"
    assert load("shipments", shipped) == Imported(0, 1, 1)
    columns = "order_id, status, packed_at, shipped_at, refund_amount"
    assert query(shop, f"SELECT {columns} FROM shipments_history ORDER BY version") == [
        (1, "packed", PACKED, None, Decimal(0)),
        (2, "packed", PACKED, None, Decimal(0)),
        (1, "shipped", PACKED, SHIPPED, Decimal(0)),
    ]


def test_backdated_versions_are_dated_at_the_last_step_they_tell_of(shop: str, load) -> None:
    load("shipments", SHIPMENTS + "1,shipped,2026-03-02 13:00,2026-03-03 09:00,,\n", backdate=True)
    load("disputes", DISPUTES + "7,1,fraud,500,2026-04-01T00:00Z,lost,2026-04-20T00:00Z\n", backdate=True)
    load("verdicts", VERDICTS + "1,fraud,Sari,,2026-05-01T00:00Z\n", backdate=True)
    assert query(shop, "SELECT valid_from FROM shipments_history") == [(SHIPPED,)]
    assert query(shop, "SELECT valid_from FROM disputes_history") == [(datetime(2026, 4, 20, tzinfo=UTC),)]
    assert query(shop, "SELECT recorded_at FROM verdicts") == [(datetime(2026, 5, 1, tzinfo=UTC),)]


def test_a_second_import_with_backdate_repairs_the_history(shop: str, load) -> None:
    text = DISPUTES + "7,1,fraud,500,2026-04-01T00:00Z,open,\n"
    load("disputes", text)
    assert load("disputes", text, backdate=True) == Imported(0, 0, 1, repaired=1)
    [(first,), (second,)] = query(shop, "SELECT valid_from FROM disputes_history ORDER BY valid_from")
    assert first == datetime(2026, 4, 1, tzinfo=UTC)
    assert datetime.now(UTC) - second < timedelta(minutes=1)


def test_a_dispute_that_was_lost_can_be_opened_again_and_won(shop: str, load) -> None:
    for outcome, decided in (("lost", "2026-04-20"), ("open", ""), ("won", "2026-05-20")):
        load("disputes", DISPUTES + f"9223372036854775807,1,fraud,500,2026-04-01,{outcome},{decided}\n")
    assert query(shop, "SELECT outcome, decided_at IS NULL FROM disputes_history ORDER BY version") == [
        ("lost", False),
        ("open", True),
        ("won", False),
    ]


def test_verdicts_are_appended_once(shop: str, load) -> None:
    text = VERDICTS + "1,fraud,Sari,called the bank,2026-05-01\n1,genuine,Budi,,\n"
    assert load("verdicts", text) == Imported(2, 0, 0)
    assert load("verdicts", text) == Imported(0, 0, 2)
    assert load("verdicts", VERDICTS + "1,fraud,Sari,,\n") == Imported(1, 0, 0)  # decided now, once more
    assert query(shop, "SELECT verdict, reviewer, note FROM verdicts ORDER BY id") == [
        ("fraud", "Sari", "called the bank"),
        ("genuine", "Budi", None),
        ("fraud", "Sari", None),
    ]
    with pytest.raises(Exception, match="verdicts is append-only"):
        execute(shop, "DELETE FROM verdicts")


@pytest.mark.parametrize(
    ("entity", "text"),
    [
        ("shipments", SHIPMENTS + "1,packed,2026-03-02,,,\n99,packed,2026-03-02,,,\n"),
        ("disputes", DISPUTES + "1,1,fraud,5,2026-04-01,,\n2,99,fraud,5,2026-04-01,,\n"),
        ("verdicts", VERDICTS + "1,fraud,Sari,,\n99,fraud,Sari,,\n"),
    ],
)
def test_an_unknown_order_is_named_with_its_line_and_nothing_changes(
    shop: str, load, entity: str, text: str
) -> None:
    with pytest.raises(InvalidFile) as error:
        load(entity, text)
    assert error.value.problems == ["line 3: order 99 does not exist"]
    assert query(shop, f"SELECT count(*) FROM {entity}") == [(0,)]


@pytest.mark.parametrize(
    ("entity", "line", "problem"),
    [
        (
            "shipments",
            "1,sent,2026-03-02,,,",
            "status must be packed, shipped, delivered, cancelled or",
        ),
        ("shipments", "1,shipped,2026-03-02,,,", "shipped_at is missing, while the status is shipped"),
        ("shipments", "1,packed,2026-03-02,,,-5", "refund_amount must be rupiah"),
        ("disputes", "1,1,fraud,5,2026-04-01,lost,", "decided_at is missing, while the outcome is lost"),
        ("disputes", "1,1,fraud,5,2026-04-01,,2026-04-02", "decided_at is given for an open dispute"),
        (
            "disputes",
            "9223372036854775808,1,fraud,5,2026-04-01,,",
            "id must be an integer from 1 to 922337",
        ),
        ("verdicts", "1,maybe,Sari,,", "verdict must be fraud or genuine, not 'maybe'"),
        ("verdicts", "1,fraud,,,", "reviewer is missing"),
    ],
)
def test_an_impossible_row_is_refused(load, entity: str, line: str, problem: str) -> None:
    header = {"shipments": SHIPMENTS, "disputes": DISPUTES, "verdicts": VERDICTS}[entity]
    with pytest.raises(InvalidFile) as error:
        load(entity, f"{header}{line}\n")
    [found] = error.value.problems
    assert found.startswith(f"line 2: {problem}")
