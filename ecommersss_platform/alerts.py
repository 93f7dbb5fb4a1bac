"""Alerts: a run that failed becomes one JSON line in `alerts.jsonl` under the home, and a line in the log.

Whoever wants mail or chat follows that file; nothing is sent anywhere from here.
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
    """The text without what looks like a credential: users in URLs, values of passwords and tokens."""
    return _PASSWORD.sub(r"\1\2***", _CREDENTIALS.sub("***@", text))


def alert(
    *, at: datetime, run_id: str, job: str, tags: Mapping[str, str], steps: Mapping[str, str], message: str
) -> dict[str, Any]:
    """One alert. `steps` gives each failed step its error; what ran and who asked for it come from `tags`."""
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
    """Append one JSON line, whole or not at all, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, (json.dumps(line, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(file)


def run_failure_alerts(settings: Settings) -> SensorDefinition:
    """The sensor that writes an alert for every run of this code location that fails."""

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
    """The message of the exception that a Dagster error wraps: the one that says what went wrong.

    `error` is a `SerializableErrorInfo` or None.
    """
    if error is None:
        return ""
    while error.cause is not None:
        error = error.cause
    return str(error.message).strip()
