"""Schedules. All are in Asia/Jakarta, switched on, and shown in the UI."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, cast

from dagster import (
    DefaultScheduleStatus,
    JobDefinition,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    TimeWindowPartitionsDefinition,
    schedule,
)

from ecommersss_platform.partitions import DAY
from streaming.business_days import JAKARTA, business_day

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

DAILY_CLOSE_CRON = "0 3 * * *"
MARKETPLACE_HOURLY_CRON = "0 * * * *"
TOPIC_RETENTION_CRON = "30 4 * * *"


def daily_close(job: UnresolvedAssetJobDefinition, first_day: date) -> ScheduleDefinition:
    """Materialises yesterday at 03:00, when late orders of the evening and the last hour's users have come.

    Not built from the job's partitions: those include today, so its newest one is never the day to close.
    """

    @schedule(
        name="daily_close",
        job=job,
        cron_schedule=DAILY_CLOSE_CRON,
        execution_timezone=str(JAKARTA),
        default_status=DefaultScheduleStatus.RUNNING,
        description="Yesterday, from the raw tables to the marts, once all of its orders have come.",
    )
    def close(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        yesterday = business_day(context.scheduled_execution_time) - DAY
        if yesterday < first_day:
            return SkipReason(f"{yesterday} is before the first partition, {first_day}")
        return RunRequest(partition_key=yesterday.isoformat())

    return close


def marketplace_hourly(job: JobDefinition) -> ScheduleDefinition:
    """Applies the hour that has just ended: while an hour lasts, its partition does not exist.

    The hour from 23:00 is applied at midnight, three hours before `daily_close` reads its day.
    """
    partitions = cast(TimeWindowPartitionsDefinition, job.partitions_def)

    @schedule(
        name="marketplace_hourly",
        job=job,
        cron_schedule=MARKETPLACE_HOURLY_CRON,
        execution_timezone=str(JAKARTA),
        default_status=DefaultScheduleStatus.RUNNING,
        description="New users, new and re-priced products of the hour that has just ended.",
    )
    def hourly(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        hour = last_closed_hour(context.scheduled_execution_time)
        if hour < partitions.start:
            return SkipReason(f"no hour has ended since the first, {partitions.start:%Y-%m-%d %H:%M}")
        return RunRequest(partition_key=hour.strftime(partitions.fmt))

    return hourly


def topic_retention(job: JobDefinition) -> ScheduleDefinition:
    """Removes old segments once a day, after `daily_close` has done with yesterday."""
    return ScheduleDefinition(
        name="topic_retention",
        job=job,
        cron_schedule=TOPIC_RETENTION_CRON,
        execution_timezone=str(JAKARTA),
        default_status=DefaultScheduleStatus.RUNNING,
        description="Segments of both streams that are old enough and that every reader is past.",
    )


def last_closed_hour(moment: datetime) -> datetime:
    """When the last hour that has ended at `moment` began, in Jakarta time."""
    return moment.astimezone(JAKARTA).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
