"""Freshness: due days, tables that are late, and the sensor that says so when nothing runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckResult,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterInstance,
    SensorResult,
    build_sensor_context,
)

from ecommersss_platform.checks import NEWEST_CLOSED_DAY, freshness_results
from ecommersss_platform.freshness import (
    BY_DAY,
    EXPECTED,
    ORDERS,
    WHOLE,
    Expected,
    due_at,
    lateness,
    missing_days,
    newest_due_day,
)
from ecommersss_platform.sensors import freshness_sensor, is_repetition
from streaming.business_days import JAKARTA

FIRST, DAY = date(2024, 6, 8), date(2024, 6, 10)
ORDERS_BY_DAY, FACTS, MART = (
    Expected(ORDERS, True),
    Expected("silver/fact_orders", True),
    Expected("gold/users_and_blacklist", False),
)


def at(hour: float, day: date = date(2024, 6, 11)) -> datetime:
    """Return an instant of the day after `DAY`, in Jakarta."""
    return datetime(day.year, day.month, day.day, tzinfo=JAKARTA) + timedelta(hours=hour)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (datetime(2024, 6, 10, 20, 59, tzinfo=UTC), date(2024, 6, 9)),  # 03:59 on the 11th in Jakarta
        (datetime(2024, 6, 10, 21, 0, tzinfo=UTC), DAY),
        (datetime(2024, 6, 11, 20, 59, tzinfo=UTC), DAY),
    ],
)
def test_a_closed_day_is_due_four_hours_after_midnight_in_jakarta(now: datetime, due: date) -> None:
    assert newest_due_day(now) == due
    assert due_at(due) <= now < due_at(due + timedelta(days=1))


def test_missing_days_begin_with_the_first_partition() -> None:
    assert missing_days(FIRST, DAY, {"2024-06-09"}) == [FIRST, DAY]
    assert missing_days(DAY, FIRST, set()) == []


@pytest.mark.parametrize(
    ("table", "updated", "loaded", "late"),
    [
        (ORDERS_BY_DAY, None, None, "2024-06-10 is not materialised: materialise it"),
        (MART, None, None, "it was never built: materialise 2024-06-10"),
        (ORDERS_BY_DAY, at(0), None, None),
        (
            ORDERS_BY_DAY,
            at(-1),
            None,
            "2024-06-10 was last built at 2024-06-10 23:00, before 2024-06-10 was over:"
            " materialise 2024-06-10",
        ),
        (MART, at(3), at(2.9), None),
        (
            MART,
            at(1),
            at(3),
            "it was last built at 2024-06-11 01:00, before the orders of 2024-06-10 were loaded at"
            " 2024-06-11 03:00: materialise 2024-06-10",
        ),
        (FACTS, at(1), at(1), None),
        (Expected("reports/fraud_report", True), at(-1), at(3), None),  # the rows were the same at 03:00
        (ORDERS_BY_DAY, at(1), at(3), None),  # raw tables are loaded beside each other
    ],
)
def test_a_table_is_late_until_it_is_built_from_the_whole_day(
    table: Expected, updated: datetime | None, loaded: datetime | None, late: str | None
) -> None:
    assert lateness(table, DAY, updated, loaded) == late


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


def report(instance: DagsterInstance, event: AssetMaterialization | AssetObservation) -> None:
    instance.report_runless_asset_event(event)


def build_everything(instance: DagsterInstance, day: date) -> None:
    for key in BY_DAY:
        report(instance, AssetMaterialization(AssetKey.from_user_string(key), partition=day.isoformat()))
    for key in WHOLE:
        report(instance, AssetMaterialization(AssetKey.from_user_string(key)))


def test_a_day_whose_table_was_observed_unchanged_after_it_is_fresh(instance: DagsterInstance) -> None:
    day = newest_due_day(now := datetime.now(UTC))

    def result(first: date) -> AssetCheckResult:
        return freshness_results(instance, [FACTS], first, now)[FACTS.key]

    stale = result(day)
    assert (stale.passed, stale.severity.value) == (False, "WARN")
    assert stale.description == f"{day} is not materialised: materialise it"
    assert result(day + timedelta(days=1)).passed, "no day is due yet"
    observed = AssetObservation(AssetKey(FACTS.key.split("/")), partition=day.isoformat())
    report(instance, observed)
    assert result(day).passed


def tick(instance: DagsterInstance, first: date, cursor: str | None = None) -> SensorResult:
    result: Any = freshness_sensor(first)(build_sensor_context(instance, cursor=cursor))
    assert isinstance(result, SensorResult)
    return result


def verdicts(result: SensorResult) -> dict[str, bool]:
    events = [event for event in result.asset_events if isinstance(event, AssetCheckEvaluation)]
    return {event.asset_key.to_user_string(): event.passed for event in events}


def test_the_sensor_reports_every_table_when_a_day_never_ran_and_when_it_has(
    instance: DagsterInstance,
) -> None:
    day = newest_due_day(datetime.now(UTC))
    missed = tick(instance, day)
    assert verdicts(missed) == {table.key: False for table in EXPECTED}
    build_everything(instance, day)
    loaded = tick(instance, day, missed.cursor)
    assert verdicts(loaded) == {table.key: True for table in EXPECTED}
    assert not loaded.run_requests
    again = tick(instance, day, loaded.cursor)
    assert (verdicts(again), again.cursor) == ({}, loaded.cursor)


def test_results_that_stay_are_reported_every_hour() -> None:
    cursor = json.dumps({"reported": at(4).isoformat(), "late": {}})
    assert is_repetition(cursor, {}, at(4.9))
    assert not is_repetition(cursor, {ORDERS: "2024-06-10 is not materialised"}, at(4.9))
    assert not is_repetition(cursor, {}, at(5))
    assert not is_repetition(None, {}, at(4))


def test_a_late_table_is_shown_without_a_run(instance: DagsterInstance) -> None:
    for event in tick(instance, newest_due_day(datetime.now(UTC))).asset_events:
        instance.report_runless_asset_event(event)
    check = AssetCheckKey(AssetKey(MART.key.split("/")), NEWEST_CLOSED_DAY)
    [record] = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
    assert (record.status.value, record.run_id) == ("FAILED", "")
