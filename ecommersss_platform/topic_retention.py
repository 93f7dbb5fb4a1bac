"""Retention: the daily job that removes old segments of the two streams.

`streaming.topics.retention.judge_segments` decides; this module finds out how far each reader has read.

| stream | readers |
|---|---|
| orders | every consumer with a position in PostgreSQL |
| flagged_orders | `order_stream_sensor` by its cursor; a consumer needs only the last line |
"""

# Annotations must be real here: Dagster inspects those of `context`.
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from dagster import DagsterInstance, JobDefinition, OpExecutionContext, job, op
from dagster._core.definitions.run_request import InstigatorType

from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.jobs import EXECUTOR
from ecommersss_platform.order_stream import Cursor
from ecommersss_platform.sensors import ORDER_STREAM_SENSOR
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import FLAGGED, RetainedStream, order_broker
from streaming.database import connect
from streaming.topics.jsonl import JsonlTopic
from streaming.topics.retention import Judgement, judge_segments, list_segments, remove_segments

TOPIC_RETENTION = "topic_retention"


@dataclass(frozen=True)
class Plan:
    """The segments of a stream, each judged removable or not."""

    name: str
    topic: JsonlTopic
    judgements: list[Judgement]

    def as_rows(self) -> list[dict[str, Any]]:
        """Return one row for each segment. Times are in UTC."""
        return [
            {
                "stream": self.name,
                "position": judgement.segment.begin,
                "bytes": judgement.segment.bytes,
                "changed": judgement.segment.changed.isoformat(timespec="seconds"),
                "removable": judgement.removable,
                "why": judgement.reason,
            }
            for judgement in self.judgements
        ]


def plan(
    settings: Settings, url: str, sensor_position: int | None, now: datetime | None = None
) -> list[Plan]:
    """Judge the segments of the streams on disk. Removes nothing.

    `url`: the operational database. `sensor_position`: the position of `order_stream_sensor` in the flagged
    stream, None if unknown. Raises `psycopg2.OperationalError` and `OSError`.
    """
    now = now or datetime.now(UTC)
    with closing(connect(url, "ecommersss retention")) as connection:
        streams = order_broker(settings).retained_streams(connection)
    return [
        _plan(
            stream,
            {ORDER_STREAM_SENSOR: sensor_position, **stream.readers}
            if stream.name == FLAGGED
            else stream.readers,
            now,
        )
        for stream in streams
    ]


def _plan(stream: RetainedStream, readers: Mapping[str, int | None], now: datetime) -> Plan:
    keep = timedelta(days=stream.keep_days) if stream.keep_days else None
    return Plan(stream.name, stream.topic, judge_segments(list_segments(stream.topic), readers, keep, now))


def remove(plans: list[Plan]) -> dict[str, list[int]]:
    """Remove the removable segments, and return them for each stream. Raises `OSError`."""
    return {planned.name: remove_segments(planned.topic, planned.judgements) for planned in plans}


def sensor_position(instance: DagsterInstance) -> int | None:
    """Return the position up to which the flagged stream is materialised, from the sensor's cursor.

    None if the sensor has never ticked. If several code locations have had the sensor, the one furthest
    behind counts. Raises `ValueError` for a cursor that the sensor did not write.
    """
    positions = [
        Cursor.parse(getattr(state.instigator_data, "cursor", None)).position
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        if state.instigator_name == ORDER_STREAM_SENSOR
    ]
    return min(positions, default=None)


def retention_job(settings: Settings) -> JobDefinition:
    """Return the job that removes old segments of both streams. It may run at any time."""

    @op(description="Removes segments that are old enough and that every reader has passed.")
    def remove_old_segments(context: OpExecutionContext) -> None:
        plans = plan(settings, database_url(settings), sensor_position(context.instance))
        removed = remove(plans)
        for planned in plans:
            gone = removed[planned.name]
            kept = next((v for v in planned.judgements if v.segment.begin not in gone), None)
            why = f"; the one at {kept.segment.begin} stays: {kept.reason}" if kept else ""
            count = f"{len(gone)} of {len(planned.judgements)} segments"
            context.log.info(f"{planned.name}: removed {count}{why}")
        context.add_output_metadata({f"{name}_removed": len(segments) for name, segments in removed.items()})

    @job(
        name=TOPIC_RETENTION,
        executor_def=EXECUTOR,
        description="Removes old segments of both streams; `ecommersss topics trim --dry-run` shows them.",
    )
    def topic_retention() -> None:
        remove_old_segments()

    return topic_retention
