"""The schedules' decisions at and around midnight in Jakarta, which is 17:00 UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    HourlyPartitionsDefinition,
    RunRequest,
    SkipReason,
    asset,
    build_schedule_context,
    job,
    op,
)
from dagster._core.test_utils import create_run_for_test

from ecommersss_platform.days import DAY
from ecommersss_platform.jobs import daily_pipeline
from ecommersss_platform.partitions import daily_partitions
from ecommersss_platform.schedules import daily_close, marketplace_hourly

FIRST_DAY = date(2025, 1, 1)
JAKARTA = ZoneInfo("Asia/Jakarta")


@asset(partitions_def=daily_partitions(FIRST_DAY))
def day_asset() -> None: ...


LABELS = AssetKey(["silver", "order_labels"])
DAYS = daily_pipeline([day_asset])
CLOSE = daily_close(DAYS, FIRST_DAY, [LABELS], timedelta(days=60))


def close_at(moment: datetime) -> object:
    """Return the request, or the reason for none, where no day matures."""
    close = daily_close(DAYS, FIRST_DAY, [LABELS], timedelta(days=1_000))
    decided = close(build_schedule_context(scheduled_execution_time=moment))
    return decided[0] if isinstance(decided, list) else decided


def test_it_closes_yesterday_though_the_partitions_include_today() -> None:
    request = close_at(datetime(2025, 1, 31, 3, tzinfo=JAKARTA))
    assert isinstance(request, RunRequest)
    assert request.partition_key == "2025-01-30"
    assert "2025-01-31" in daily_partitions(FIRST_DAY).get_partition_keys(
        current_time=datetime(2025, 1, 31, 3, tzinfo=JAKARTA)
    )


@pytest.mark.parametrize(
    ("moment", "closed"),
    [
        (datetime(2025, 1, 30, 20, 0, tzinfo=UTC), "2025-01-30"),  # 03:00 of the 31st in Jakarta
        (datetime(2025, 1, 30, 16, 59, 59, tzinfo=UTC), "2025-01-29"),
        (datetime(2025, 1, 30, 17, 0, tzinfo=UTC), "2025-01-30"),
        (datetime(2025, 3, 1, 3, tzinfo=JAKARTA), "2025-02-28"),
        (datetime(2026, 1, 1, 3, tzinfo=JAKARTA), "2025-12-31"),
    ],
)
def test_yesterday_is_jakartas_whatever_the_ticks_time_zone(moment: datetime, closed: str) -> None:
    request = close_at(moment)
    assert isinstance(request, RunRequest)
    assert request.partition_key == closed


def test_the_night_before_the_first_day_is_skipped() -> None:
    skipped = close_at(datetime(2025, 1, 1, 3, tzinfo=JAKARTA))
    assert isinstance(skipped, SkipReason)
    assert skipped.skip_message == "2024-12-31 is before the first partition, 2025-01-01"
    first = close_at(datetime(2025, 1, 2, 3, tzinfo=JAKARTA))
    assert isinstance(first, RunRequest)
    assert first.partition_key == "2025-01-01"


def matured_at(instance: DagsterInstance, day: date) -> list[RunRequest]:
    """Return the requests for labels that the night of a day makes."""
    moment = datetime(day.year, day.month, day.day, 3, tzinfo=JAKARTA)
    requests = CLOSE(build_schedule_context(instance, scheduled_execution_time=moment))
    assert isinstance(requests, list)
    closed, *matured = requests
    assert closed.partition_key == str(day - DAY)
    assert (closed.asset_selection, closed.tags["reason"]) == (None, "daily close")
    return matured


def test_it_labels_the_day_that_matures_and_nothing_else_of_it(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert matured_at(instance, date(2025, 3, 1)) == []
        [request] = matured_at(instance, date(2025, 3, 2))
    assert request.asset_selection == [LABELS]
    assert request.tags == {"dagster/partition": "2025-01-01", "reason": "labels of days that mature"}


def test_days_that_matured_while_the_platform_was_off_are_labelled_too(tmp_path: Path) -> None:
    """Or whose run failed. Those of the last run that succeeded are not labelled again."""
    off = date(2025, 3, 12)
    with DagsterInstance.local_temp(str(tmp_path)) as instance:

        def asked_for(day: date) -> dict[str, str]:
            [request] = matured_at(instance, day)
            return {name: value for name, value in request.tags.items() if name != "reason"}

        def run(tags: Mapping[str, str], status: DagsterRunStatus) -> None:
            scheduled = {"dagster/schedule_name": "daily_close", "reason": "labels of days that mature"}
            create_run_for_test(
                instance, job_name="daily_pipeline", status=status, tags={**scheduled, **tags}
            )

        run(asked_for(date(2025, 3, 2)), DagsterRunStatus.SUCCESS)
        run(asked_for(date(2025, 3, 3)), DagsterRunStatus.FAILURE)
        missed = {
            "dagster/asset_partition_range_start": "2025-01-02",
            "dagster/asset_partition_range_end": "2025-01-11",
        }
        assert asked_for(off) == missed
        run(missed, DagsterRunStatus.SUCCESS)
        assert asked_for(off) == {"dagster/partition": "2025-01-11"}, "the same night, asked again"
        assert asked_for(off + DAY) == {"dagster/partition": "2025-01-12"}


def test_the_sources_are_observed_with_the_day_that_is_closed(tmp_path: Path) -> None:
    observed: list[date] = []
    close = daily_close(DAYS, FIRST_DAY, [LABELS], timedelta(days=60), lambda _, day: observed.append(day))
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        for moment in (datetime(2025, 1, 1, 3, tzinfo=JAKARTA), datetime(2025, 1, 2, 3, tzinfo=JAKARTA)):
            close(build_schedule_context(instance, scheduled_execution_time=moment))
    assert observed == [date(2025, 1, 1)]


def test_the_hour_that_has_just_ended_is_applied() -> None:
    @op
    def apply() -> None: ...

    @job(
        partitions_def=HourlyPartitionsDefinition(
            start_date=datetime(2025, 1, 1, tzinfo=JAKARTA), timezone="Asia/Jakarta", fmt="%Y-%m-%d-%H:%M"
        )
    )
    def hours() -> None:
        apply()

    hourly = marketplace_hourly(hours)
    assert hourly.cron_schedule == "0 * * * *"
    assert hourly.execution_timezone == "Asia/Jakarta"
    assert hourly.default_status == DefaultScheduleStatus.RUNNING
    for moment, hour in [
        (datetime(2025, 1, 31, 10, tzinfo=JAKARTA), "2025-01-31-09:00"),
        (datetime(2025, 1, 31, 0, tzinfo=JAKARTA), "2025-01-30-23:00"),
        (datetime(2025, 1, 30, 17, tzinfo=UTC), "2025-01-30-23:00"),
    ]:
        request = hourly(build_schedule_context(scheduled_execution_time=moment))
        assert isinstance(request, RunRequest)
        assert request.partition_key == hour
        assert request.tags["reason"] == "an hour of the marketplace"
    first = hourly(build_schedule_context(scheduled_execution_time=datetime(2025, 1, 1, tzinfo=JAKARTA)))
    assert isinstance(first, SkipReason)
