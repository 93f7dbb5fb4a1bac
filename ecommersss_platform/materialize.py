"""Materialise a range of days from the command line: the same job as in the UI, in one run, with progress.

The run is executed by a child process (`python -m ecommersss_platform.materialize`), because Dagster takes
over the standard output of the process that executes a run. The parent follows the run's events in
Dagster's storage, as the UI does, and needs no code location for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, BinaryIO

from ecommersss_platform.instance.dagster_home import dagster_instance, environment
from ecommersss_platform.instance.runs import HOST_TAG, fail_orphaned_runs
from ecommersss_platform.partitions import Days
from ecommersss_platform.settings import Settings
from streaming.business_days import business_day
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from dagster import AssetMaterialization, DagsterInstance

DEFINITIONS = "ecommersss_platform.definitions"
POLL_SECONDS = 0.3
STOP_SECONDS = 30
EVENTS_PER_READ = 1000


class Kind(Enum):
    """What a progress report is about."""

    WAITING = "waiting"
    """Another run has the warehouse; `name` is its id."""
    STARTED = "started"
    """A step began; `name` is the step."""
    MATERIALIZED = "materialised"
    """All asked days of an asset are there; `name` is the asset, such as "gold/most_fraudulent_users"."""
    CHECK_FAILED = "check failed"
    """`name` is "asset: check"."""
    FAILED = "failed"
    """A step failed; `name` is the step."""


@dataclass(frozen=True)
class Progress:
    kind: Kind
    name: str
    done: int
    """Assets materialised so far, of `total` in the run (0 while that is not known)."""
    total: int
    message: str = ""


@dataclass(frozen=True)
class FailedCheck:
    asset: str
    check: str
    blocking: bool
    """Whether it failed the run; otherwise it is a warning."""
    message: str


@dataclass
class Materialized:
    """How a run ended that succeeded. `rows` gives each asset's row count where the asset reports one, else
    None.
    """

    run_id: str
    days: Days
    seconds: float = 0.0
    rows: dict[str, int | None] = field(default_factory=dict)
    failed_checks: list[FailedCheck] = field(default_factory=list)


class MaterializeError(PlatformError):
    """The run failed. `steps` gives each failed step its underlying error; the message has them too."""

    def __init__(
        self, message: str, run_id: str | None = None, steps: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.steps = dict(steps or {})


def check_days(days: Days, first_day: date, today: date) -> None:
    """Raises `MaterializeError` for days that have no partition."""
    if days.first < first_day:
        raise MaterializeError(
            f"{days.first} is before the first partition, {first_day}: ask for {first_day} or later, or set"
            " ECOMMERSSS_FIRST_DAY to an earlier day"
        )
    if days.last > today:
        raise MaterializeError(f"{days.last} has not begun: today is {today} in Jakarta")


def materialize(
    settings: Settings,
    days: Days,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
    dagster_url: str | None = None,
    definitions: str = DEFINITIONS,
) -> Materialized:
    """Run the job `daily_pipeline` once for all of `days`, and wait for it.

    The run is in the platform's own Dagster instance, so it is in the UI's run list. It waits for its turn
    when another run has the warehouse. Without `dagster_url` the embedded servers are started for it where
    they are not up. `progress` is called from this thread. Raises `MaterializeError`.
    """
    check_days(days, settings.first_partition_day(), business_day(datetime.now(UTC)))
    with ExitStack() as stack:
        if dagster_url is None:
            from ecommersss_platform.instance.databases import dagster_storage, operational_database

            stack.enter_context(operational_database(settings))
            dagster_url = stack.enter_context(dagster_storage(settings))
        instance = stack.enter_context(dagster_instance(settings, dagster_url))
        _wait_for_turn(settings, instance, progress)
        began = time.monotonic()
        run = _Run(instance, Materialized(str(uuid.uuid4()), days), progress)
        output = stack.enter_context(tempfile.TemporaryFile())
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ecommersss_platform.materialize",
                definitions,
                run.id,
                str(days.first),
                str(days.end),
            ],
            env={**os.environ, **environment(settings, dagster_url)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while child.poll() is None:
                run.follow()
                time.sleep(POLL_SECONDS)
            run.follow()
        finally:
            _stop(child)
        run.result.seconds = time.monotonic() - began
        return run.ended(child.returncode, output)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child if it still runs: a terminated run is recorded as cancelled, a killed one is not."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_for_turn(
    settings: Settings, instance: DagsterInstance, progress: Callable[[Progress], None]
) -> None:
    """Wait while a run is under way that takes part in a pool, as the daemon's queue would.

    The other way round the queue sees this run. Should two begin in the same moment, the warehouse's own
    lock keeps them apart.
    """
    from dagster import DagsterRunStatus, RunsFilter

    told = ""
    while True:
        if settings.dagster_url is None:  # then all processes are on this machine
            fail_orphaned_runs(instance)
        active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
        for other in instance.get_runs(RunsFilter(statuses=active)):
            if other.run_op_concurrency and other.run_op_concurrency.all_pools:
                break
        else:
            return
        if told != other.run_id:
            told = other.run_id
            message = f"waiting for run {other.run_id} ({other.job_name}), which has the warehouse"
            progress(Progress(Kind.WAITING, other.run_id, 0, 0, message))
        time.sleep(1)


class _Run:
    """Follows a run's events and turns them into progress and a result."""

    def __init__(
        self, instance: DagsterInstance, result: Materialized, progress: Callable[[Progress], None]
    ) -> None:
        self.id = result.run_id
        self.result = result
        self.steps: dict[str, str] = {}
        self._instance = instance
        self._progress = progress
        self._cursor: str | None = None
        self._assets: set[str] = set()
        self._done: set[str] = set()
        self._made: dict[str, set[str | None]] = {}

    def follow(self) -> None:
        """Read the events that have come since the last time."""
        while True:
            page = self._instance.get_records_for_run(self.id, self._cursor, limit=EVENTS_PER_READ)
            for record in page.records:
                if record.event_log_entry.dagster_event is not None:
                    self._take(record.event_log_entry.dagster_event)
            self._cursor = page.cursor
            if not page.has_more:
                return

    def _take(self, event: Any) -> None:
        from dagster import AssetCheckSeverity, DagsterEventType

        match event.event_type:
            case DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
                # Not for counting days: Dagster plans them for assets without partitions too.
                self._assets.add(event.asset_key.to_user_string())
            case DagsterEventType.STEP_START:
                self._report(Kind.STARTED, event.step_key)
            case DagsterEventType.ASSET_MATERIALIZATION:
                self._materialized(event.asset_key.to_user_string(), event.materialization)
            case DagsterEventType.ASSET_CHECK_EVALUATION:
                check = event.asset_check_evaluation_data
                if not check.passed:
                    found = FailedCheck(
                        check.asset_key.to_user_string(),
                        check.check_name,
                        check.blocking and check.severity == AssetCheckSeverity.ERROR,
                        check.description or "",
                    )
                    self.result.failed_checks.append(found)
                    self._report(Kind.CHECK_FAILED, f"{found.asset}: {found.check}", found.message)
            case DagsterEventType.STEP_FAILURE:
                from ecommersss_platform.alerts import root_message, without_secrets

                self.steps[event.step_key] = without_secrets(root_message(event.step_failure_data.error))
                self._report(Kind.FAILED, event.step_key, self.steps[event.step_key])

    def _materialized(self, name: str, made: AssetMaterialization) -> None:
        # A partitioned asset has an event for each of its days, with that day's rows if it knows them.
        days = self._made.setdefault(name, set())
        of_the_day = made.metadata.get("dagster/partition_row_count")
        of_the_table = made.metadata.get("dagster/row_count")
        if of_the_day is not None:
            self.result.rows[name] = (self.result.rows.get(name) or 0) + int(str(of_the_day.value))
        elif of_the_table is not None:
            self.result.rows[name] = int(str(of_the_table.value))
        else:
            self.result.rows.setdefault(name, None)
        days.add(made.partition)
        if made.partition is None or len(days) == len(self.result.days):
            self._done.add(name)
            self._report(Kind.MATERIALIZED, name)

    def _report(self, kind: Kind, name: str, message: str = "") -> None:
        self._progress(Progress(kind, name, len(self._done), len(self._assets), message))

    def ended(self, exit_code: int, output: BinaryIO) -> Materialized:
        """The result, or `MaterializeError` when the run did not succeed."""
        from dagster import DagsterRunStatus

        run = self._instance.get_run_by_id(self.id)
        if run is not None and run.status == DagsterRunStatus.SUCCESS:
            return self.result
        if self.steps:
            failures = "\n".join(f"  {step}: {error}" for step, error in self.steps.items())
            raise MaterializeError(
                f"run {self.id} for {self.result.days} failed:\n{failures}\n"
                "Tables that the run did not reach are as they were. Its log is in the UI."
                " Run the same command again once the cause is gone.",
                self.id,
                self.steps,
            )
        if run is not None and not run.is_finished:
            self._instance.report_run_failed(run, f"Its process ended with exit code {exit_code}.")
        raise MaterializeError(
            f"run {self.id} for {self.result.days} did not finish: its process ended"
            f" {'' if run else 'before it began, '}with exit code {exit_code}. Its last words:\n"
            f"{_tail(output)}",
            self.id if run else None,
        )


def _tail(output: BinaryIO, lines: int = 20) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 8192))
    from ecommersss_platform.alerts import without_secrets

    return without_secrets("\n".join(output.read().decode("utf-8", "replace").splitlines()[-lines:]))


def execute(definitions: str, run_id: str, days: Days) -> bool:
    """Execute the run in this process; whether it succeeded. `DAGSTER_HOME` must be set."""
    from importlib import import_module

    from dagster import DagsterInstance

    from ecommersss_platform.jobs import DAILY_PIPELINE, range_tags

    job = import_module(definitions).defs.resolve_job_def(DAILY_PIPELINE)
    with DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            run_id=run_id,
            raise_on_error=False,
            tags={**range_tags(days), HOST_TAG: socket.gethostname()},
        )
    return bool(result.success)


def main(arguments: Iterable[str]) -> int:
    definitions, run_id, first, end = arguments
    return 0 if execute(definitions, run_id, Days(date.fromisoformat(first), date.fromisoformat(end))) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
