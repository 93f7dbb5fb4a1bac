"""The sensors. Two materialise days again: shells around `plan_tick` and `plan_labels`.

One follows new flagged orders, the other what is written later about old ones. A third sensor evaluates the
checks of freshness, which have to speak when nothing runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetKey,
    AssetObservation,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from msgspec.structs import replace

from ecommersss_platform.checks import NEWEST_CLOSED_DAY, freshness_results
from ecommersss_platform.freshness import EXPECTED
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.late_labels import LABEL, LOAD, plan_labels, read_changes
from ecommersss_platform.late_labels import Cursor as LabelCursor
from ecommersss_platform.observations import is_due, observe
from ecommersss_platform.order_stream import Cursor, Outcome, Seen, plan_tick
from ecommersss_platform.reasons import reason_tag
from ecommersss_platform.run_tags import range_tags
from ecommersss_platform.settings import Settings
from ecommersss_platform.stream_window import read_window
from ecommersss_platform.topics import flagged_stream
from ecommersss_platform.usage import used_up
from streaming.business_days import business_day
from streaming.database import connect

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

ORDER_STREAM_SENSOR = "order_stream_sensor"
LABEL_SENSOR = "label_sensor"
FRESHNESS_SENSOR = "freshness_sensor"
FRESHNESS_INTERVAL = timedelta(minutes=10)
FRESHNESS_REPEATED = timedelta(hours=1)
"""How often results that have not changed are reported all the same, so that the UI shows they are recent."""
REQUEST_TAG = "dagster/run_key"
"""Dagster's tag for the key of the request that a run answers. Its own retries of the run carry it too."""
PRIORITY = {"dagster/priority": "-1"}
"""Lets the runs that people and schedules ask for go first: theirs have priority 0."""


def order_stream_sensor(
    job: UnresolvedAssetJobDefinition, settings: Settings, first_day: date
) -> SensorDefinition:
    """Return the sensor that materialises again the days of new flagged orders, closed ones too."""

    @sensor(
        name=ORDER_STREAM_SENSOR,
        job=job,
        minimum_interval_seconds=settings.stream_interval_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Reads the flagged stream from its cursor and materialises again the days of new orders:"
        " closed days when their late orders have settled, today every"
        f" {settings.today_interval_seconds} seconds. Failed days are asked for again, with growing delays."
        " Every five minutes it also observes the sources that have changed.",
    )
    def order_stream(context: SensorEvaluationContext) -> SensorResult:
        now = datetime.now(UTC)
        if held_back := budget_used_up(settings, now):
            return SensorResult(skip_reason=SkipReason(held_back), cursor=context.cursor)
        decision = plan_tick(
            Cursor.parse(context.cursor),
            outcome=lambda key: run_outcome(context.instance, key),
            read=lambda position: read_window(
                flagged_stream(settings), position, settings.flagged_max_bytes_per_tick
            ),
            first_day=first_day,
            now=now,
            today_interval=timedelta(seconds=settings.today_interval_seconds),
        )
        for note in decision.notes:
            context.log.info(note)
        cursor, observations = decision.cursor, list[AssetObservation]()
        if is_due(cursor.observed_at, now):
            observations, problem = observe(context.instance, settings, cursor.seen)
            if problem is not None:
                context.log.warning(problem)
            cursor = replace(cursor, observed_at=now, seen=Seen() if problem is None else cursor.seen)
        return SensorResult(
            run_requests=[
                RunRequest(
                    run_key=request.key,
                    tags={
                        **PRIORITY,
                        **range_tags(request.days),
                        **reason_tag(decision.reasons[request.key]),
                    },
                )
                for request in decision.requests
            ],
            skip_reason=None if decision.requests else SkipReason("; ".join(decision.notes)),
            cursor=cursor.text(),
            asset_events=observations,
        )

    return order_stream


def label_sensor(
    job: UnresolvedAssetJobDefinition,
    settings: Settings,
    first_day: date,
    *,
    sources: Sequence[AssetKey],
    labelled: Sequence[AssetKey],
) -> SensorDefinition:
    """Return the sensor that labels the days of old orders again.

    `sources`: the raw tables of shipments, disputes and verdicts. `labelled`: the labels and what is made of
    them; what is by day is made for the days of the labels only. Both are assets of `job`.
    """

    @sensor(
        name=LABEL_SENSOR,
        job=job,
        minimum_interval_seconds=settings.stream_interval_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description="Watches shipments, disputes and verdicts in PostgreSQL: loads the raw days on which"
        " something was written, and then labels the days of the orders it is about, and no others.",
    )
    def late_labels(context: SensorEvaluationContext) -> SensorResult:
        if held_back := budget_used_up(settings, datetime.now(UTC)):
            return SensorResult(skip_reason=SkipReason(held_back), cursor=context.cursor)
        cursor = LabelCursor.parse(context.cursor)
        with closing(connect(database_url(settings), "ecommersss labels")) as connection:
            changes = read_changes(connection, cursor.read_to)
        if changes is None:
            return SensorResult(
                skip_reason=SkipReason("an import is under way: the next tick reads what it wrote"),
                cursor=context.cursor,
            )
        decision = plan_labels(
            cursor,
            changes,
            outcome=lambda key: run_outcome(context.instance, key),
            first_day=first_day,
            now=datetime.now(UTC),
            interval=timedelta(seconds=settings.today_interval_seconds),
        )
        for note in decision.notes:
            context.log.info(note)
        asked = [(LOAD, sources, request) for request in decision.loads]
        asked += [(LABEL, labelled, request) for request in decision.labels]
        return SensorResult(
            run_requests=[
                RunRequest(
                    run_key=prefix + request.key,
                    tags={
                        **PRIORITY,
                        **range_tags(request.days),
                        **reason_tag(decision.reasons[prefix + request.key]),
                    },
                    asset_selection=list(assets),
                )
                for prefix, assets, request in asked
            ],
            skip_reason=None if asked else SkipReason("; ".join(decision.notes)),
            cursor=decision.cursor.text(),
        )

    return late_labels


def freshness_sensor(first_day: date) -> SensorDefinition:
    """Return the sensor that evaluates the freshness of every table, also when no run does.

    It reports results without a run: the process of one costs 3 s of processor time, and these 0.2 s.
    """

    @sensor(
        name=FRESHNESS_SENSOR,
        minimum_interval_seconds=int(FRESHNESS_INTERVAL.total_seconds()),
        default_status=DefaultSensorStatus.RUNNING,
        description="Evaluates the check that the newest closed day is in every table. Reports the results"
        " when one changes, and every hour. Requests no runs.",
    )
    def freshness(context: SensorEvaluationContext) -> SensorResult:
        now = datetime.now(UTC)
        results = freshness_results(context.instance, EXPECTED, first_day, now)
        late = {key: str(result.description) for key, result in results.items() if not result.passed}
        said = json.dumps({"reported": now.isoformat(timespec="seconds"), "late": late})
        what = f"late: {', '.join(late)}" if late else "the newest closed day is in every table"
        if is_repetition(context.cursor, late, now):
            return SensorResult(skip_reason=SkipReason(f"nothing new: {what}"), cursor=context.cursor)
        return SensorResult(
            asset_events=[evaluation(key, result) for key, result in results.items()],
            skip_reason=SkipReason(what),
            cursor=said,
        )

    return freshness


def is_repetition(cursor: str | None, late: Mapping[str, str], now: datetime) -> bool:
    """Return whether the same results were reported within the last hour, as the sensor's cursor knows it."""
    said = json.loads(cursor) if cursor else None
    return (
        said is not None
        and said["late"] == late
        and now - datetime.fromisoformat(said["reported"]) < FRESHNESS_REPEATED
    )


def evaluation(key: str, result: AssetCheckResult) -> AssetCheckEvaluation:
    """Return the event that reports the freshness of a table without a run."""
    return AssetCheckEvaluation(
        AssetKey.from_user_string(key),
        NEWEST_CLOSED_DAY,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        blocking=False,
    )


def budget_used_up(settings: Settings, now: datetime) -> str | None:
    """Return why no run may be requested today, or None."""
    if settings.bigquery_daily_bytes is None:
        return None
    with closing(connect(database_url(settings), "ecommersss usage")) as connection:
        return used_up(connection, settings.bigquery_daily_bytes, business_day(now))


def run_outcome(instance: DagsterInstance, key: str) -> Outcome:
    """Return the state of the runs that answer a request: its own run, and Dagster's retries of it."""
    statuses = {run.status for run in instance.get_runs(RunsFilter(tags={REQUEST_TAG: key}))}
    if DagsterRunStatus.SUCCESS in statuses:
        return Outcome.SUCCEEDED
    if not statuses:
        return Outcome.NONE
    if statuses <= {DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}:
        return Outcome.FAILED
    return Outcome.ACTIVE
