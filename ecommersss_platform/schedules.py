"""The schedules. All use Asia/Jakarta and are on by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, cast

from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    JobDefinition,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SkipReason,
    TimeWindowPartitionsDefinition,
    schedule,
)

from ecommersss_platform.days import DAY, Days
from ecommersss_platform.reasons import reason_tag
from ecommersss_platform.run_tags import PARTITION_TAG, RANGE_END_TAG, range_tags
from streaming.business_days import JAKARTA, business_day

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

DAILY_CLOSE_CRON = "0 3 * * *"
MARKETPLACE_HOURLY_CRON = "0 * * * *"
TOPIC_RETENTION_CRON = "30 4 * * *"
MAINTENANCE_CRON = "45 4 * * *"

MATURED = "labels of days that mature"
"""The reason of a run that labels days because they are old enough."""


Observe = Callable[[DagsterInstance, date], None]
"""Records what the sources came to on a closed day."""


def daily_close(
    job: UnresolvedAssetJobDefinition,
    first_day: date,
    labelled: Sequence[AssetKey],
    maturity: timedelta,
    observe: Observe | None = None,
) -> ScheduleDefinition:
    """Return the schedule that materialises yesterday at 03:00, when late orders have arrived.

    It also labels the days whose orders are now old enough (`maturity`) to be genuine unless somebody says
    otherwise: one each night, and more after nights on which the platform was off or this run failed. Dagster
    makes up for no tick that was missed. `labelled`: the assets that this changes. `observe`, if any, is
    called with the closed day.

    It is not built from the job's partitions: these include today, so the newest one is never the day to
    close.
    """

    @schedule(
        name="daily_close",
        job=job,
        cron_schedule=DAILY_CLOSE_CRON,
        execution_timezone=str(JAKARTA),
        default_status=DefaultScheduleStatus.RUNNING,
        description="Yesterday, from the raw tables to the marts, once all its orders have arrived; and the"
        " labels of the days that mature.",
    )
    def close(context: ScheduleEvaluationContext) -> list[RunRequest] | SkipReason:
        today = business_day(context.scheduled_execution_time)
        if today - DAY < first_day:
            return SkipReason(f"{today - DAY} is before the first partition, {first_day}")
        if observe is not None:
            observe(context.instance, today - DAY)
        requests = [
            RunRequest(
                run_key=f"closed:{today}",
                partition_key=(today - DAY).isoformat(),
                tags=reason_tag("daily close"),
            )
        ]
        if (last := today - maturity) >= first_day:
            known = _last_matured_day(context.instance)
            first = min(last, known + DAY) if known is not None else first_day
            requests.append(
                RunRequest(
                    run_key=f"matured:{today}",
                    asset_selection=list(labelled),
                    tags={**range_tags(Days.between(first, last)), **reason_tag(MATURED)},
                )
            )
        return requests

    return close


def _last_matured_day(instance: DagsterInstance) -> date | None:
    """Return the last day that a run has labelled because it matured; None if no such run is known."""
    done = RunsFilter(
        statuses=[DagsterRunStatus.SUCCESS],
        tags={"dagster/schedule_name": "daily_close", **reason_tag(MATURED)},
    )
    for run in instance.get_runs(done, limit=1):
        return date.fromisoformat(run.tags.get(RANGE_END_TAG) or run.tags[PARTITION_TAG])
    return None


def marketplace_hourly(job: JobDefinition) -> ScheduleDefinition:
    """Return the schedule that applies the hour that has just ended. An hour has no partition before its end.

    The last hour of a day is applied at midnight, three hours before `daily_close` reads the day.
    """
    partitions = cast(TimeWindowPartitionsDefinition, job.partitions_def)

    @schedule(
        name="marketplace_hourly",
        job=job,
        cron_schedule=MARKETPLACE_HOURLY_CRON,
        execution_timezone=str(JAKARTA),
        default_status=DefaultScheduleStatus.RUNNING,
        description="New users, products and prices of the last full hour, and what became of its orders.",
    )
    def hourly(context: ScheduleEvaluationContext) -> RunRequest | SkipReason:
        hour = last_closed_hour(context.scheduled_execution_time)
        if hour < partitions.start:
            return SkipReason(f"the first hour, {partitions.start:%Y-%m-%d %H:%M}, has not ended yet")
        return RunRequest(
            partition_key=hour.strftime(partitions.fmt), tags=reason_tag("an hour of the marketplace")
        )

    return hourly


def topic_retention(job: JobDefinition) -> ScheduleDefinition:
    """Return the schedule that removes old segments once a day, after `daily_close`."""
    description = "Removes segments that are old enough and that every reader has passed."
    return _daily(job, TOPIC_RETENTION_CRON, description)


def maintenance(job: JobDefinition) -> ScheduleDefinition:
    """Return the schedule that removes old runs and what they left once a day, after `topic_retention`."""
    description = "Removes old runs, their events, logs and artefacts, and old rejected orders."
    return _daily(job, MAINTENANCE_CRON, description)


def _daily(job: JobDefinition, cron: str, description: str) -> ScheduleDefinition:
    """Return the schedule of a job without partitions, with the job's name."""
    return ScheduleDefinition(
        name=job.name,
        job=job,
        cron_schedule=cron,
        execution_timezone=str(JAKARTA),
        default_status=DefaultScheduleStatus.RUNNING,
        description=description,
        tags=reason_tag("daily, by its schedule"),
    )


def last_closed_hour(moment: datetime) -> datetime:
    """Return the begin of the last hour that has ended by `moment`, in Jakarta time."""
    return moment.astimezone(JAKARTA).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
