"""Dagster's daemon, and the sensors and schedules that it evaluates: away, failing, or switched off."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, timedelta

from ecommersss_platform.alerts.look import Look, Undecided
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.text import cause
from ecommersss_platform.instance.code_server import LOCATION

TOLERANCE = timedelta(minutes=3)
"""How old the newest heartbeat may be: each part of the daemon writes one every 30 s."""

SENSORS = ("order_stream_sensor", "label_sensor", "freshness_sensor")
SCHEDULES = ("daily_close", "marketplace_hourly", "topic_retention", "maintenance")
"""What is on by default. Dagster's tables also remember what earlier versions had."""

FAILURES = {"SENSOR": 3, "SCHEDULE": 1}
"""How many evaluations in a row fail before it is told. A sensor's next one comes within a minute."""

_LONGEST_ERROR = 200

_BEATS = """
SELECT daemon_type AS part, timestamp AS beat FROM daemon_heartbeats
WHERE daemon_type IN ('SENSOR', 'SCHEDULER', 'QUEUED_RUN_COORDINATOR')
"""
_INSTIGATORS = """
SELECT instigator_type AS type, status, instigator_body::json #>> '{origin,job_name}' AS name, ticks.*
FROM instigators, LATERAL (
    SELECT array_agg(tick.status ORDER BY id DESC) AS ticks,
           (array_agg(tick.error ORDER BY id DESC))[1] AS error
    FROM (
        SELECT id, status, CASE status WHEN 'FAILURE' THEN tick_body::json ->> 'error' END AS error
        FROM job_ticks WHERE selector_id = instigators.selector_id AND status <> 'STARTED'
        ORDER BY timestamp DESC LIMIT 3
    ) AS tick
) AS ticks
"""


def daemon_down(look: Look) -> list[Problem]:
    """Return a problem if a part of the daemon has given no sign of life for a while."""
    beats = [row["beat"].replace(tzinfo=UTC) for row in look.rows(_BEATS)]
    if not beats:
        return []  # no daemon has ever run here
    silent = look.now - min(beats)
    if silent <= TOLERANCE:
        return []
    if look.now - look.since <= TOLERANCE:
        raise Undecided
    return [
        Problem(
            "daemon_down",
            "daemon",
            f"Dagster's daemon has given no sign of life for {int(silent.total_seconds() // 60)} min, so no"
            " schedule, sensor or queued run starts: start it (`ecommersss up`, or the service daemon), or"
            " see logs/daemon.log",
        )
    ]


def sensors_and_schedules(look: Look) -> Iterator[Problem]:
    """Yield a problem for each sensor or schedule that fails, or is switched off."""
    for row in look.rows(_INSTIGATORS):
        if row["name"] not in (*SENSORS, *SCHEDULES):
            continue
        name, type_ = row["name"], row["type"]
        what, page = ("schedule", "schedules") if type_ == "SCHEDULE" else ("sensor", "sensors")
        path = f"locations/__repository__@{LOCATION}/{page}/{name}"
        if row["status"] == "STOPPED":
            yield Problem(
                "sensor_off",
                name,
                f"the {what} {name} is switched off: switch it on in the UI, or mute this alert",
                look.link(path),
            )
        elif fails(row["ticks"] or [], type_):
            yield Problem(
                "sensor_failing",
                name,
                f"the newest evaluations of the {what} {name} failed ({error_text(row['error'])}): correct"
                " the cause; it goes on by itself",
                look.link(path),
            )


def fails(ticks: list[str], type_: str) -> bool:
    """Return whether these evaluations, the newest first, are failures that have to be told."""
    needed = FAILURES.get(type_, 1)
    return len(ticks) >= needed and set(ticks[:needed]) == {"FAILURE"}


def error_text(error: str | None) -> str:
    """Return the first line of the root cause of a tick's error."""
    return cause(error)[:_LONGEST_ERROR] or "its ticks say why"
