"""Alerts: each failed run becomes one JSON line in `alerts.jsonl` in the home, and a line in the log.

Nothing is sent from here. To get mail or chat messages, follow that file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import DefaultSensorStatus, RunFailureSensorContext, SensorDefinition, run_failure_sensor

from ecommersss_platform.settings import Settings

LONGEST_MESSAGE = 1000
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
_PASSWORD = re.compile(r"(?i)(password|passwd|secret|token)(\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)")


def without_secrets(text: str) -> str:
    """Remove what looks like a credential: users in URLs, values of passwords and tokens."""
    return _PASSWORD.sub(r"\1\2***", _CREDENTIALS.sub("***@", text))


def alert(
    *, at: datetime, run_id: str, job: str, tags: Mapping[str, str], steps: Mapping[str, str], message: str
) -> dict[str, Any]:
    """Return one alert. `steps` maps failed steps to errors; `tags` are those of the run."""
    return {
        "at": at.isoformat(timespec="seconds"),
        "alert": "run_failed",
        "job": job,
        "run_id": run_id,
        "partitions": _tags(tags, "partition", "asset_partition_range_start", "asset_partition_range_end"),
        "started_by": _tags(tags, "schedule_name", "sensor_name", "backfill"),
        "steps": {step: without_secrets(error)[:LONGEST_MESSAGE] for step, error in steps.items()},
        "message": without_secrets(message)[:LONGEST_MESSAGE],
    }


def _tags(tags: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: tags[f"dagster/{name}"] for name in names if f"dagster/{name}" in tags}


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Append one JSON line in a single write, to a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(file)


def run_failure_alerts(settings: Settings) -> SensorDefinition:
    """Return the sensor that writes an alert for every failed run of this code location."""

    @run_failure_sensor(
        name="run_failure_alerts",
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Writes each failed run to alerts.jsonl in the platform's home.",
    )
    def alerts(context: RunFailureSensorContext) -> None:
        run = context.dagster_run
        line = alert(
            at=datetime.now(UTC),
            run_id=run.run_id,
            job=run.job_name,
            tags=run.tags,
            steps={
                str(event.step_key): root_message(event.step_failure_data.error)
                for event in context.get_step_failure_events()
            },
            message=context.failure_event.message or "",
        )
        append(settings.alerts_path, line)
        context.log.warning(f"run {run.run_id} of {run.job_name} failed: {line['message']}")

    return alerts


def root_message(error: Any) -> str:
    """Return the message of the root cause of a Dagster error, a `SerializableErrorInfo` or None."""
    if error is None:
        return ""
    while error.cause is not None:
        error = error.cause
    return str(error.message).strip()
