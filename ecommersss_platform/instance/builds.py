"""The newest build of each table of dbt's, as Dagster's storage remembers it."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import date
from typing import TYPE_CHECKING

from dagster import AssetRecordsFilter, DagsterRun, EventLogEntry, RunsFilter

from ecommersss_platform.dbt.unchanged import BUILT_FROM, Build, Target

if TYPE_CHECKING:
    from dagster import AssetKey, DagsterInstance

_EVENTS_PER_READ = 1_000


def newest_builds(
    instance: DagsterInstance, run: DagsterRun, targets: Iterable[Target]
) -> dict[Target, Build]:
    """Return the newest build of each target that was ever built. `run`: the run that asks."""
    days: dict[AssetKey, set[str]] = {}
    for key, day in targets:
        days.setdefault(key, set()).update([str(day)] if day else [])
    found: dict[Target, EventLogEntry] = {}
    whole = [key for key, keys in days.items() if not keys]
    for record in instance.get_asset_records(whole) if whole else ():
        if record.asset_entry.last_materialization is not None:
            found[record.asset_entry.asset_key, None] = record.asset_entry.last_materialization
    for key, missing in days.items():
        found.update(_newest_of_days(instance, key, missing))
    runs = (
        instance.get_runs(RunsFilter(run_ids=list({entry.run_id for entry in found.values()})))
        if found
        else ()
    )
    complete = {earlier.run_id for earlier in runs if covers(earlier, run)}
    return {target: _build(entry, entry.run_id in complete) for target, entry in found.items()}


def covers(earlier: DagsterRun, run: DagsterRun) -> bool:
    """Return whether an earlier run succeeded, and was for all the assets and checks of this run, or more."""
    return (
        earlier.is_success
        and earlier.job_name == run.job_name
        # Dagster has None or nothing for all assets, and None for all checks.
        and _covers(earlier.asset_selection or None, run.asset_selection or None)
        and _covers(earlier.asset_check_selection, run.asset_check_selection)
    )


def _covers(had: AbstractSet[object] | None, wants: AbstractSet[object] | None) -> bool:
    return had is None or (wants is not None and wants <= had)


def _newest_of_days(instance: DagsterInstance, key: AssetKey, days: set[str]) -> dict[Target, EventLogEntry]:
    found: dict[Target, EventLogEntry] = {}
    missing, cursor = set(days), None
    while missing:
        page = instance.fetch_materializations(
            AssetRecordsFilter(key, asset_partitions=sorted(missing)), limit=_EVENTS_PER_READ, cursor=cursor
        )
        for record in page.records:
            if record.partition_key in missing:
                missing.remove(record.partition_key)
                found[key, date.fromisoformat(record.partition_key)] = record.event_log_entry
        if not page.has_more:
            break
        cursor = page.cursor
    return found


def _build(entry: EventLogEntry, whole: bool) -> Build:
    made = entry.asset_materialization
    recorded = made.metadata.get(BUILT_FROM) if made else None
    return Build(entry.run_id, None if recorded is None else str(recorded.value), whole)
