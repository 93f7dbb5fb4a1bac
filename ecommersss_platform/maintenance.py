"""Maintenance: the daily job that removes what is older than `ECOMMERSSS_RUN_RETENTION_DAYS`.

Only the fraud reports are kept for longer, for `ECOMMERSSS_REPORT_RETENTION_DAYS`.

| what | where it is removed |
|---|---|
| runs, events, check executions, snapshots | `instance/pruning.py` |
| compute logs and step outputs, dbt artefacts, log files | here |
| fraud reports | `reports/folder.py` |
| rejected orders | `streaming/rejected.py` |
"""

# Annotations must be real here: Dagster inspects those of `context`.
import os
import re
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dagster import Failure, JobDefinition, OpExecutionContext, job, op

from ecommersss_platform.dbt.project import artifacts_dir, parsed_name
from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.jobs import EXECUTOR
from ecommersss_platform.settings import Settings
from streaming.business_days import business_day
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.rejected import remove_rejected

MAINTENANCE = "maintenance"
OBSERVATION_DAYS = 14
"""The days that observations of the sources are kept at most: some hundred are made a day."""
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Removed:
    """The number of files or folders that were removed, and their size in bytes."""

    removed: int = 0
    bytes: int = 0


def keep_from(settings: Settings, now: datetime | None = None) -> datetime:
    """Return the instant before which nothing is kept. If everything is kept, it is the earliest of all."""
    if not settings.run_retention_days:
        return datetime.min.replace(tzinfo=UTC)
    return (now or datetime.now(UTC)) - timedelta(days=settings.run_retention_days)


def keep_observations_from(settings: Settings, now: datetime | None = None) -> datetime:
    """Return the instant before which the observations of sources are not kept, as they are many."""
    if not settings.run_retention_days:
        return keep_from(settings)
    now = now or datetime.now(UTC)
    return max(keep_from(settings, now), now - timedelta(days=OBSERVATION_DAYS))


def remove_old(paths: list[Path], before: datetime) -> Removed:
    """Remove the files, and the folders in which nothing has changed, since this instant."""
    count = size = 0
    for path in paths:
        found = _stats(path)
        if found and max(entry.st_mtime for entry in found) < before.timestamp():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            count, size = count + 1, size + sum(entry.st_size for entry in found)
    return Removed(count, size)


def _stats(path: Path) -> list[os.stat_result]:
    """Return the status of a path and of all below it; nothing if somebody removes files there just now."""
    try:
        return [entry.lstat() for entry in (path, *path.rglob("*"))]
    except FileNotFoundError:
        return []


def remove_old_logs(directory: Path, before: datetime) -> Removed:
    """Empty the logs that nothing was written to since this instant, and remove their rotated copies.

    A log is emptied and not removed, because a quiet process may have it open.
    """
    count = size = 0
    for log in filter(Path.is_file, _entries(directory)):
        entry = log.stat()
        if entry.st_size and entry.st_mtime < before.timestamp():
            if log.suffix == ".log":
                os.truncate(log, 0)
            else:
                log.unlink()
            count, size = count + 1, size + entry.st_size
    return Removed(count, size)


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def maintenance_job(settings: Settings) -> JobDefinition:
    """Return the job that removes what is too old. It may run at any time."""

    @op(description="Removes old runs, events, check executions and snapshots from Dagster's storage.")
    def prune_runs(context: OpExecutionContext) -> None:
        # Brings Dagster's storage, which loading the code location does not need.
        from ecommersss_platform.instance.pruning import prune_instance

        try:
            pruned = prune_instance(
                context.instance, keep_from(settings), observed_before=keep_observations_from(settings)
            )
        except PlatformError as error:
            raise Failure(str(error), allow_retries=False) from error
        context.log.info(f"removed {pruned.runs_removed} old runs; {pruned.runs_kept} runs are left")
        context.add_output_metadata(asdict(pruned))

    @op(
        description="Removes the compute logs and step outputs of old runs, dbt artefacts, and old log files."
    )
    def prune_files(context: OpExecutionContext) -> None:
        before = keep_from(settings)
        runs = [p for p in _entries(Path(context.instance.storage_directory())) if _RUN_ID.fullmatch(p.name)]
        in_use = parsed_name(settings)
        of_dbt = [
            p for p in _entries(artifacts_dir(settings)) if p.name != in_use and not p.name.startswith(".")
        ]
        found = {
            "run_folders": remove_old(runs, before),
            "dbt_artefacts": remove_old(of_dbt, before),
            "logs": remove_old_logs(settings.logs_dir, before),
        }
        context.add_output_metadata(
            {f"{name}_{figure}": n for name, what in found.items() for figure, n in asdict(what).items()}
        )

    @op(description="Removes old fraud reports.")
    def prune_reports(context: OpExecutionContext) -> None:
        from ecommersss_platform.reports.folder import remove_old_pages

        days = settings.report_retention_days
        before = business_day(datetime.now(UTC)) - timedelta(days=days) if days else date.min
        context.add_output_metadata({"reports_removed": remove_old_pages(settings.reports_dir, before)})

    @op(description="Removes old rejected orders.")
    def prune_rejected_orders(context: OpExecutionContext) -> None:
        with closing(connect(database_url(settings), "ecommersss maintenance")) as connection:
            removed = remove_rejected(connection, keep_from(settings))
        context.add_output_metadata({"rejected_orders_removed": removed})

    @job(
        name=MAINTENANCE,
        executor_def=EXECUTOR,
        description="Removes runs and what they left, and rejected orders, that are older than"
        f" {settings.run_retention_days} days (ECOMMERSSS_RUN_RETENTION_DAYS; 0: nothing).",
    )
    def maintenance() -> None:
        prune_runs()
        prune_files()
        prune_reports()
        prune_rejected_orders()

    return maintenance
