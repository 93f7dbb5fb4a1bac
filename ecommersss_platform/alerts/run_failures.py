"""Alerts: each failed run becomes one JSON line in `alerts.jsonl` in the home, and a line in the log.

A sensor writes them. `ecommersss materialize` writes that of its own run by itself, because nothing else may
be up. Whoever comes second finds the alert in the file.

Nothing is sent from here. To get mail or chat messages, follow that file.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    run_failure_sensor,
)

from ecommersss_platform.alerts.text import root_message, without_secrets
from ecommersss_platform.settings import Settings

LONGEST_MESSAGE = 1000


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


def append(path: Path, line: Mapping[str, Any], identity: str = "run_id") -> bool:
    """Append one JSON line to a file that only its owner may read, unless the file has that alert already.

    `identity` is the field that only lines of the same alert share. Return whether the line was appended.
    Processes that know of the same run take turns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        same = f'"{identity}": {json.dumps(line[identity])}'.encode()
        if any(same in earlier for earlier in file):
            return False
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        return True


def alert_failed_run(settings: Settings, instance: DagsterInstance, run: DagsterRun) -> dict[str, Any] | None:
    """Write the alert of a run that failed. Return it, or None if the run has its alert already."""
    failures = instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_FAILURE)
    line = alert(
        at=datetime.now(UTC),
        run_id=run.run_id,
        job=run.job_name,
        tags=run.tags,
        steps={
            str(entry.step_key): root_message(entry.get_dagster_event().step_failure_data.error)
            for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_FAILURE)
        },
        message=failures[-1].message if failures else "",
    )
    return line if append(settings.alerts_path, line) else None


def run_failure_alerts(settings: Settings) -> SensorDefinition:
    """Return the sensor that writes an alert for every failed run, whoever started it.

    Dagster takes the runs of `ecommersss materialize` for those of another code location, because no
    code server started them.
    """

    @run_failure_sensor(
        name="run_failure_alerts",
        monitor_all_code_locations=True,
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Writes each failed run to alerts.jsonl in the platform's home.",
    )
    def alerts(context: RunFailureSensorContext) -> None:
        run = context.dagster_run
        if line := alert_failed_run(settings, context.instance, run):
            context.log.warning(f"run {run.run_id} of {run.job_name} failed: {line['message']}")

    return alerts
