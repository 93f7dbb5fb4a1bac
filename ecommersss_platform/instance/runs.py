"""Runs whose processes are gone."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ecommersss_platform.local.processes import created

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

HOST_TAG = "ecommersss/host"
"""Tag of the runs that `ecommersss materialize` starts: the machine or container that executes them."""


def fail_orphaned_runs(instance: DagsterInstance) -> list[str]:
    """Mark the runs as failed whose process on this machine is gone, and return their ids.

    After a power cut, or a kill of the whole stack, runs stay "started" forever, and one of them would hold
    the pool "duckdb" forever: Dagster's default launcher cannot tell that their processes are gone. Call it
    before the daemon starts. Runs that never reported a process are left to run monitoring.
    """
    from dagster import DagsterRunStatus, RunsFilter

    orphans = []
    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(RunsFilter(statuses=active)):
        if gone := lost_processes(instance, run):
            instance.report_run_failed(run, gone)
            orphans.append(run.run_id)
    return orphans


def lost_processes(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Return a sentence if all processes of a run that reported on this machine are gone, else None.

    Call it on the machine, or in the container, that executes runs without a `HOST_TAG`.
    """
    here = socket.gethostname()
    if run.tags.get(HOST_TAG, here) != here:
        return None
    reports = _reported_processes(instance, run)
    if not reports or any(_still_runs(pid, at) for pid, at in reports.items()):
        return None
    return f"The process of this run is gone (process id {', '.join(map(str, reports))})."


def _reported_processes(instance: DagsterInstance, run: DagsterRun) -> Mapping[int, float]:
    """Return the processes that reported to execute the run, each with the time, in epoch seconds."""
    from dagster import DagsterEventType

    found: dict[int, float] = {}
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            found[int(str(pid.value))] = entry.timestamp
    return found


def _still_runs(pid: int, reported_at: float) -> bool:
    """Return whether the process that reported itself at that time (epoch seconds) still runs.

    A process that was created after the report has only inherited the id.
    """
    created_at = created(pid)
    return created_at is not None and created_at <= reported_at + 1
