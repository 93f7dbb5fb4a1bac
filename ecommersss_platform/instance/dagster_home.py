"""Dagster's own state in the embedded platform: its home, its environment, its instance, and runs that
died.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from ecommersss_platform.settings import Settings

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

DAGSTER_URL_VARIABLE = "ECOMMERSSS_DAGSTER_URL"
"""Named in `dagster.yaml`, so that the password stays out of it."""

HOST_TAG = "ecommersss/host"
"""On runs of `ecommersss materialize`: the machine or container whose process executes them."""


def environment(settings: Settings, dagster_url: str) -> dict[str, str]:
    """What a process needs in its environment to work on this platform: every setting, and Dagster's home.

    Contains passwords when a URL does: for the environment of child processes only.
    """
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        **{f"ECOMMERSSS_{name.upper()}": str(value) for name, value in values.items() if value is not None},
        DAGSTER_URL_VARIABLE: dagster_url,
        "DAGSTER_HOME": str(settings.dagster_home),
        "DO_NOT_TRACK": "1",
    }


def prepare_dagster_home(settings: Settings) -> None:
    """Make Dagster's home and put `dagster.yaml` there; a newer template or setting replaces an older one."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    template = files("ecommersss_platform.instance").joinpath("dagster.yaml").read_text()
    text = Template(template).substitute(concurrent_runs=settings.runs_at_once)
    target = settings.dagster_home / "dagster.yaml"
    if not target.exists() or target.read_text() != text:
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(target)


@contextmanager
def dagster_instance(settings: Settings, dagster_url: str) -> Iterator[DagsterInstance]:
    """The platform's Dagster instance, the same that the UI shows.

    `dagster.yaml` names an environment variable, so this process's is set meanwhile.
    """
    from dagster import DagsterInstance

    prepare_dagster_home(settings)
    before = os.environ.get(DAGSTER_URL_VARIABLE)
    os.environ[DAGSTER_URL_VARIABLE] = dagster_url
    try:
        with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            yield instance
    finally:
        if before is None:
            os.environ.pop(DAGSTER_URL_VARIABLE, None)
        else:
            os.environ[DAGSTER_URL_VARIABLE] = before


def announce_pool(instance: DagsterInstance, pool: str | None) -> None:
    """Let the instance know the pool before a run does.

    Dagster 1.13 gives a pool that it sees for the first time its default limit, and counts by it only from
    the next round of the queue on: the first round would launch two runs at once.
    """
    storage = instance.event_log_storage
    # Dagster's own way to do it fails on PostgreSQL for a pool that is known already.
    if pool is not None and pool not in storage.get_concurrency_keys():
        storage.initialize_concurrency_limit_to_default(pool)


def alive(pid: int, seen_at: float, started_at: float | None) -> bool:
    """Whether the process that reported itself as `pid` at `seen_at` still runs.

    `started_at` is when the process that has this id now was started, None if there is none. Both are
    seconds since the epoch. An id that was given away again belongs to a process that is younger than the
    report.
    """
    return started_at is not None and started_at <= seen_at + 1


def fail_orphaned_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs as failed whose process on this machine is gone; the ids of these.

    A machine that loses power, or a kill of the whole stack, leaves runs "started" for ever, and one such
    run would hold the pool "duckdb" for ever: Dagster's default launcher cannot tell that their processes
    are gone. Called before the daemon is started. Runs that never reported a process are left to run
    monitoring.
    """
    from dagster import DagsterRunStatus, RunsFilter

    orphans = []
    here = socket.gethostname()
    started = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(RunsFilter(statuses=started)):
        if run.tags.get(HOST_TAG, here) != here:
            continue
        reports = _processes(instance, run)
        if reports and not any(alive(pid, at, _started_at(pid)) for pid, at in reports.items()):
            instance.report_run_failed(
                run, f"The process of this run is gone (process id {', '.join(map(str, reports))})."
            )
            orphans.append(run.run_id)
    return orphans


def _processes(instance: DagsterInstance, run: DagsterRun) -> Mapping[int, float]:
    """The processes that said they execute this run, and when they said so, in seconds since the epoch."""
    from dagster import DagsterEventType

    found: dict[int, float] = {}
    for entry in instance.all_logs(run.run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event else None
        if pid is not None:
            found[int(str(pid.value))] = entry.timestamp
    return found


def _started_at(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
