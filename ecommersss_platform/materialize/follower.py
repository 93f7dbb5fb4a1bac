"""Follow a run's events in Dagster's storage: progress while it lasts, and then its result."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, BinaryIO

from ecommersss_platform.days import Days
from streaming.errors import PlatformError

if TYPE_CHECKING:
    from dagster import AssetMaterialization, DagsterInstance

EVENTS_PER_READ = 1000


class Kind(Enum):
    """What a progress report is about."""

    WAITING = "waiting"
    """Another run has the warehouse; `name` is its id."""
    STARTED = "started"
    """A step began; `name` is the step."""
    MATERIALIZED = "materialised"
    """All requested days of an asset exist; `name` is the asset, such as "gold/most_fraudulent_users"."""
    WARNING = "warning"
    """A step logged a warning, such as for whom it waits; `name` is the step."""
    CHECK_FAILED = "check failed"
    """`name` is "asset: check"."""
    FAILED = "failed"
    """A step failed; `name` is the step."""


@dataclass(frozen=True)
class Progress:
    """A step forward, or a failure, of the run."""

    kind: Kind
    name: str
    done: int
    """Assets materialised so far, of `total` in the run (0 while unknown)."""
    total: int
    message: str = ""


@dataclass(frozen=True)
class FailedCheck:
    """An asset check that failed during the run."""

    asset: str
    check: str
    blocking: bool
    """Whether it failed the run; otherwise it is only a warning."""
    message: str


@dataclass
class Materialized:
    """The result of a run that succeeded.

    `rows` has the row count of each asset that was materialised, None if it reports none. `unchanged` has the
    tables that were up to date.
    """

    run_id: str
    days: Days
    seconds: float = 0.0
    rows: dict[str, int | None] = field(default_factory=dict)
    unchanged: set[str] = field(default_factory=set)
    failed_checks: list[FailedCheck] = field(default_factory=list)


class MaterializeError(PlatformError):
    """The run failed. `steps` maps each failed step to its root error; the message has them too."""

    def __init__(
        self, message: str, run_id: str | None = None, steps: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.steps = dict(steps or {})


class RunFollower:
    """Follows the events of a run, and turns them into progress and a result."""

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
        """Read the events that are new since the last call."""
        while True:
            page = self._instance.get_records_for_run(self.id, self._cursor, limit=EVENTS_PER_READ)
            for record in page.records:
                entry = record.event_log_entry
                if entry.dagster_event is not None:
                    self._take(entry.dagster_event)
                elif int(entry.level) >= logging.WARNING:
                    self._report(Kind.WARNING, entry.step_key or "", entry.user_message)
            self._cursor = page.cursor
            if not page.has_more:
                return

    def cancel(self) -> None:
        """Tell Dagster to cancel the run. Otherwise it takes the end of the process for a failure."""
        run = self._instance.get_run_by_id(self.id)
        if run is not None and not run.is_finished:
            self._instance.report_run_canceling(run)

    def _take(self, event: Any) -> None:
        from dagster import AssetCheckSeverity, DagsterEventType

        match event.event_type:
            case DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
                # Not used to count days: Dagster plans days for unpartitioned assets too.
                self._assets.add(event.asset_key.to_user_string())
            case DagsterEventType.STEP_START:
                self._report(Kind.STARTED, event.step_key)
            case DagsterEventType.ASSET_MATERIALIZATION:
                self._materialized(event.asset_key.to_user_string(), event.materialization)
            case DagsterEventType.ASSET_OBSERVATION:
                self.result.unchanged.add(event.asset_key.to_user_string())
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
                from ecommersss_platform.alerts.text import root_message, without_secrets

                self.steps[event.step_key] = without_secrets(root_message(event.step_failure_data.error))
                self._report(Kind.FAILED, event.step_key, self.steps[event.step_key])

    def _materialized(self, name: str, made: AssetMaterialization) -> None:
        # A partitioned asset has one event for each day, with the rows of that day if it reports them.
        days = self._made.setdefault(name, set())
        day_rows = made.metadata.get("dagster/partition_row_count")
        table_rows = made.metadata.get("dagster/row_count")
        if day_rows is not None:
            self.result.rows[name] = (self.result.rows.get(name) or 0) + int(str(day_rows.value))
        elif table_rows is not None:
            self.result.rows[name] = int(str(table_rows.value))
        else:
            self.result.rows.setdefault(name, None)
        days.add(made.partition)
        if made.partition is None or len(days) == len(self.result.days):
            self._done.add(name)
            self._report(Kind.MATERIALIZED, name)

    def _report(self, kind: Kind, name: str, message: str = "") -> None:
        self._progress(Progress(kind, name, len(self._done), len(self._assets), message))

    def ended(self, exit_code: int, output: BinaryIO) -> Materialized:
        """Return the result. Raises `MaterializeError` if the run did not succeed."""
        from dagster import DagsterRun, DagsterRunStatus

        from ecommersss_platform.jobs import DAILY_PIPELINE
        from ecommersss_platform.materialize.child import run_tags

        run = self._instance.get_run_by_id(self.id)
        if run is not None and run.status == DagsterRunStatus.SUCCESS:
            return self.result
        if self.steps:
            failures = "\n".join(f"  {step}: {error}" for step, error in self.steps.items())
            raise MaterializeError(
                f"run {self.id} for {self.result.days} failed:\n{failures}\n"
                "Tables that the run did not reach are unchanged. The log of the run is in the UI."
                " Fix the cause and run the same command again.",
                self.id,
                self.steps,
            )
        began, last_output = run is not None, _tail(output)
        ending = f"its process ended {'' if began else 'before it began, '}with exit code {exit_code}"
        if run is None:  # so that the UI, and the alerts, know of it
            run = self._instance.add_run(
                DagsterRun(job_name=DAILY_PIPELINE, run_id=self.id, tags=run_tags(self.result.days))
            )
        if not run.is_finished:
            last_line = "".join(f": {line}" for line in last_output.splitlines()[-1:])
            self._instance.report_run_failed(run, f"{ending}{last_line}")
        raise MaterializeError(
            f"run {self.id} for {self.result.days} did not finish: {ending}. Its last output:\n{last_output}",
            self.id if began else None,
        )


def _tail(output: BinaryIO, lines: int = 20) -> str:
    """Return the last lines of the output, without secrets."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 8192))
    from ecommersss_platform.alerts.text import without_secrets

    return without_secrets("\n".join(output.read().decode("utf-8", "replace").splitlines()[-lines:]))
