"""The label sensor's decision, tick by tick; and what it reads of disputes and verdicts."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from ecommersss_platform.late_labels import (
    LOAD,
    Changes,
    Cursor,
    Decision,
    plan_labels,
    read_changes,
)
from ecommersss_platform.order_stream import Outcome, Request
from ecommersss_platform_tests.support.shop import add_orders, execute, open_shop, query
from streaming.business_days import business_day
from streaming.database import connect

FIRST_DAY = date(2026, 1, 1)
NOW = datetime(2026, 3, 25, 5, tzinfo=UTC)
TODAY, OLD = date(2026, 3, 25), date(2026, 3, 4)
MINUTE = timedelta(minutes=1)


def changes(*ordered: date, written: date = TODAY, position: int = 1) -> Changes:
    return Changes({"disputes_history": position}, frozenset([written]), Counter(ordered))


def nothing(cursor: Cursor) -> Changes:
    return Changes(cursor.read_to)


def tick(
    cursor: Cursor, new: Changes | None = None, at: timedelta = timedelta(), **outcomes: Outcome
) -> Decision:
    """Return what a tick decides `at` after `NOW`. `outcomes`: of all loads, and of all labels."""

    def outcome(key: str) -> Outcome:
        return outcomes.get("load" if key.startswith(LOAD) else "label", Outcome.NONE)

    return plan_labels(
        cursor,
        nothing(cursor) if new is None else new,
        outcome=outcome,
        first_day=FIRST_DAY,
        now=NOW + at,
        interval=5 * MINUTE,
    )


def days(requests: tuple[Request, ...]) -> list[str]:
    return [str(request.days) for request in requests]


def test_raw_days_are_loaded_first_and_then_exactly_the_days_of_the_orders_are_labelled() -> None:
    first = tick(Cursor(), changes(OLD, OLD + timedelta(days=5)))
    assert (first.loads, first.labels) == ((), ())
    assert first.notes == ("what was written on 1 days about orders of 2 waits until 2026-03-25 12:01:00",)
    loads = tick(first.cursor, at=MINUTE)
    assert (days(loads.loads), loads.labels) == (["2026-03-25"], ())
    waits = tick(loads.cursor, at=2 * MINUTE, load=Outcome.ACTIVE)
    assert (waits.loads, waits.labels) == ((), ())
    labels = tick(waits.cursor, at=3 * MINUTE, load=Outcome.SUCCEEDED)
    assert (labels.loads, days(labels.labels)) == ((), ["2026-03-04", "2026-03-09"])
    assert list(loads.reasons.values()) == ["shipments, disputes or verdicts of 1 day"]
    assert list(labels.reasons.values()) == ["labels of 1 order", "labels of 1 order"]
    done = tick(labels.cursor, at=4 * MINUTE, label=Outcome.SUCCEEDED)
    assert (done.loads, done.labels) == ((), ())
    assert done.notes == ("no new shipments, disputes or verdicts",)
    assert done.cursor == Cursor(read_to={"disputes_history": 1}, asked_at=NOW + MINUTE)


def test_changes_wait_for_more_of_them_but_no_longer_than_five_minutes() -> None:
    cursor = Cursor()
    for minute in range(6):
        decision = tick(cursor, changes(OLD, position=minute + 1), minute * MINUTE)
        cursor = decision.cursor
        assert len(decision.loads) == (minute == 5)
    assert cursor.ordered == ()
    assert cursor.loading == (OLD,)


def test_raw_days_are_asked_for_once_in_the_interval() -> None:
    cursor = tick(tick(Cursor(), changes(OLD)).cursor, at=MINUTE).cursor
    cursor = tick(cursor, changes(OLD, position=2), 2 * MINUTE, load=Outcome.SUCCEEDED).cursor
    assert not tick(cursor, at=5 * MINUTE, label=Outcome.SUCCEEDED).loads
    again = tick(cursor, at=6 * MINUTE, label=Outcome.SUCCEEDED)
    assert days(again.loads) == ["2026-03-25"]
    assert again.loads[0].key != Request(TODAY, TODAY, 1, read_to=1).key


def test_what_comes_while_raw_days_are_loaded_waits_for_the_next_load() -> None:
    cursor = tick(tick(Cursor(), changes(OLD)).cursor, at=MINUTE).cursor
    later = OLD + timedelta(days=9)
    cursor = tick(cursor, changes(later, position=2), 2 * MINUTE, load=Outcome.ACTIVE).cursor
    labels = tick(cursor, at=3 * MINUTE, load=Outcome.SUCCEEDED)
    assert days(labels.labels) == ["2026-03-04"]
    assert labels.cursor.ordered == (later,)


def test_a_failed_load_is_asked_for_again_and_nothing_is_labelled_before() -> None:
    cursor = tick(tick(Cursor(), changes(OLD)).cursor, at=MINUTE).cursor
    failed = tick(cursor, at=2 * MINUTE, load=Outcome.FAILED)
    assert (failed.loads, failed.labels) == ((), ())
    assert "attempt 1 failed" in failed.notes[0]
    again = tick(failed.cursor, at=3 * MINUTE, load=Outcome.FAILED)
    assert [request.attempt for request in again.loads] == [2]
    assert days(tick(again.cursor, at=4 * MINUTE, load=Outcome.SUCCEEDED).labels) == ["2026-03-04"]


def test_a_failed_label_run_is_asked_for_again() -> None:
    cursor = tick(tick(Cursor(), changes(OLD)).cursor, at=MINUTE).cursor
    cursor = tick(cursor, at=2 * MINUTE, load=Outcome.SUCCEEDED).cursor
    cursor = tick(cursor, at=3 * MINUTE, label=Outcome.FAILED).cursor
    again = tick(cursor, at=4 * MINUTE, label=Outcome.FAILED)
    assert [(str(request.days), request.attempt) for request in again.labels] == [("2026-03-04", 2)]


def test_many_single_days_are_labelled_a_few_at_a_time() -> None:
    scattered = [FIRST_DAY + timedelta(days=2 * n) for n in range(12)]
    cursor = tick(tick(Cursor(), changes(*scattered)).cursor, at=MINUTE).cursor
    first = tick(cursor, at=2 * MINUTE, load=Outcome.SUCCEEDED)
    assert len(first.labels) == 8
    rest = tick(first.cursor, at=3 * MINUTE, label=Outcome.SUCCEEDED)
    assert [request.first for request in (*first.labels, *rest.labels)] == scattered


def test_days_without_a_partition_are_left_out() -> None:
    cursor = tick(Cursor(), changes(FIRST_DAY - timedelta(days=1), TODAY + timedelta(days=1))).cursor
    assert cursor.ordered == ()
    assert days(tick(cursor, at=MINUTE).loads) == ["2026-03-25"]


def test_a_cursor_survives_being_stored() -> None:
    cursor = tick(tick(Cursor(), changes(OLD)).cursor, at=MINUTE).cursor
    assert Cursor.parse(cursor.text()) == cursor
    assert Cursor.parse(None) == Cursor()
    with pytest.raises(ValueError, match=r"the cursor of label_sensor cannot be read .*Reset it in the UI"):
        Cursor.parse("[1]")


# What is read.


@pytest.fixture
def shop(database: str) -> str:
    open_shop(database, users=1, products=1)
    add_orders(database, [1, 2, 3])
    execute(database, "UPDATE orders SET created_date = '2026-03-04T17:30:00Z' WHERE id = 2")
    return database


def read(url: str, read_to: dict[str, int]) -> Any:
    with closing(connect(url, "test")) as connection:
        return read_changes(connection, read_to)


@pytest.mark.integration
def test_only_what_was_written_since_is_read(shop: str) -> None:
    dispute = (
        "INSERT INTO disputes (id, order_id, kind, amount, opened_at) VALUES (%s, %s, 'fraud', 1, now())"
    )
    execute(shop, dispute, [7, 2])
    today = business_day(query(shop, "SELECT now()")[0][0])
    first = read(shop, {})
    assert first == Changes(
        {"shipments_history": 0, "disputes_history": 1, "verdicts": 0},
        frozenset([today]),
        {date(2026, 3, 5): 1},
    )
    assert read(shop, first.read_to) == Changes(first.read_to)
    execute(shop, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (2, 'fraud', 'Sari')")
    second = read(shop, first.read_to)
    assert second.read_to == {**first.read_to, "verdicts": 1}
    assert second.ordered == {date(2026, 3, 5): 1}


@pytest.mark.integration
def test_an_order_with_a_dispute_and_a_verdict_is_counted_once(shop: str) -> None:
    dispute = "INSERT INTO disputes (id, order_id, kind, amount, opened_at) VALUES (%s, 2, 'fraud', 1, now())"
    for number in (7, 8):
        execute(shop, dispute, [number])
    execute(shop, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (2, 'fraud', 'Sari')")
    assert read(shop, {}).ordered == {date(2026, 3, 5): 1}


def test_orders_are_counted_until_their_day_is_labelled() -> None:
    cursor = tick(Cursor(), changes(OLD, OLD)).cursor
    cursor = tick(cursor, changes(OLD, OLD + timedelta(days=1)), at=MINUTE / 2).cursor
    cursor = tick(cursor, at=2 * MINUTE).cursor
    labels = tick(cursor, at=3 * MINUTE, load=Outcome.SUCCEEDED)
    assert (days(labels.labels), list(labels.reasons.values())) == (
        ["2026-03-04 to 2026-03-05"],
        ["labels of 4 orders"],
    )
    assert labels.cursor.orders == {}
    again = tick(labels.cursor, at=5 * MINUTE, label=Outcome.FAILED)
    again = tick(again.cursor, at=9 * MINUTE, label=Outcome.FAILED)
    assert list(again.reasons.values()) == ["attempt 2, because the one before failed"]


@pytest.mark.integration
def test_shipments_label_nothing_and_only_those_of_closed_days_are_loaded(shop: str) -> None:
    execute(shop, "INSERT INTO shipments (order_id, status, packed_at) VALUES (1, 'packed', now())")
    assert read(shop, {}) == Changes({"shipments_history": 1, "disputes_history": 0, "verdicts": 0})
    execute(
        shop,
        "SET ecommersss.clock = '2026-03-10T00:00:00Z';"
        " INSERT INTO shipments (order_id, status, packed_at) VALUES (2, 'packed', now())",
    )
    assert read(shop, {}).written == frozenset([date(2026, 3, 10)])
    assert read(shop, {}).ordered == {}


@pytest.mark.integration
def test_nothing_is_read_past_a_transaction_that_still_writes(shop: str) -> None:
    with closing(connect(shop, "slow import")) as other, other.cursor() as cursor:
        cursor.execute("INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (1, 'fraud', 'Sari')")
        execute(shop, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (3, 'fraud', 'Budi')")
        assert read(shop, {}) is None
        other.commit()
    assert read(shop, {}).read_to["verdicts"] == 2
