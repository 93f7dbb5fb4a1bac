"""Removal of old runs, events, check executions and snapshots from Dagster's storage.

Dagster deletes a run together with its events, and the events are what says which partitions are materialised
or failed. So a run stays, whatever its age, if it holds

- the newest materialisation of an asset and partition, or a newer attempt at it that failed, or
- the newest execution, or the newest completed one, of a check.

Runs go through Dagster's own methods. It has none for check executions, events without a run, and snapshots:
these go by SQL, which was tested with the tables of the versions in `TESTED_VERSIONS` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from dagster import DagsterInstance
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import text
from sqlalchemy.engine import Connection

from streaming.errors import PlatformError

TESTED_VERSIONS = frozenset({"0.29.27"})
"""The versions of dagster-postgres whose tables the statements below were tested with."""
MOST_RUNS = 10_000
"""Bounds the time of a pruning, about ten minutes. The rest goes in the next ones."""

_NEEDED_EVENTS = """
    SELECT unnest(ARRAY[max(id) FILTER (WHERE done), max(id)]) AS id
    FROM (
        SELECT id, asset_key, partition, dagster_event_type = 'ASSET_MATERIALIZATION' AS done
        FROM event_logs
        WHERE asset_key IS NOT NULL
            AND dagster_event_type IN ('ASSET_MATERIALIZATION', 'ASSET_MATERIALIZATION_PLANNED')
    ) AS attempts
    GROUP BY asset_key, partition
"""
# Stock Dagster announces a check for each partition of a run, even if its asset has none. The real partitions
# of a check are those of its completed executions.
_NEEDED_EXECUTIONS = """
    SELECT max(id) AS id FROM asset_check_executions GROUP BY asset_key, check_name
    UNION
    SELECT max(id) FROM asset_check_executions WHERE execution_status IN ('SUCCEEDED', 'FAILED')
    GROUP BY asset_key, check_name, partition
"""
_REMOVABLE_RUNS = f"""
    SELECT run_id FROM runs
    WHERE status IN ('SUCCESS', 'FAILURE', 'CANCELED') AND update_timestamp < :before
        AND run_id NOT IN (
            SELECT run_id FROM event_logs JOIN ({_NEEDED_EVENTS}) AS needed USING (id)
            WHERE run_id IS NOT NULL
        )
        AND run_id NOT IN (
            SELECT run_id FROM asset_check_executions JOIN ({_NEEDED_EXECUTIONS}) AS needed USING (id)
            WHERE run_id IS NOT NULL
        )
    ORDER BY runs.id
"""  # noqa: S608
_REMOVE_EXECUTIONS = f"""
    WITH needed AS ({_NEEDED_EXECUTIONS})
    DELETE FROM asset_check_executions AS execution
    WHERE coalesce(evaluation_event_timestamp, create_timestamp) < :before
        AND NOT EXISTS (SELECT FROM needed WHERE needed.id = execution.id)
"""  # noqa: S608
# An empty run id marks an event without a run, such as a materialisation that a person reports in the UI, and
# the observations of the sources, which are many: their newest ones stay, and the others for a shorter time.
_REMOVE_EVENTS = f"""
    WITH needed AS (
        {_NEEDED_EVENTS}
        UNION
        SELECT max(id) FROM event_logs WHERE run_id = '' AND dagster_event_type = 'ASSET_OBSERVATION'
        GROUP BY asset_key
    ),
    removed AS (
        DELETE FROM event_logs AS event
        WHERE run_id = ''
            AND timestamp < CASE dagster_event_type
                WHEN 'ASSET_OBSERVATION' THEN CAST(:observed_before AS timestamp)
                ELSE CAST(:before AS timestamp) END
            AND NOT EXISTS (SELECT FROM needed WHERE needed.id = event.id)
        RETURNING id
    ),
    removed_tags AS (DELETE FROM asset_event_tags USING removed WHERE event_id = removed.id)
    SELECT count(*) FROM removed
"""  # noqa: S608
_USED_SNAPSHOTS = """
    SELECT snapshot_id, snapshot_type FROM snapshots
    WHERE snapshot_id IN (
        SELECT snapshot_id FROM runs
        UNION SELECT CAST(run_body AS json) ->> 'execution_plan_snapshot_id' FROM runs
    )
"""
# Snapshots newer than all used ones stay: a run that is just being created may be about to use them.
_REMOVE_SNAPSHOTS = """
    DELETE FROM snapshots
    WHERE snapshot_id <> ALL(:used) AND id < (SELECT max(id) FROM snapshots WHERE snapshot_id = ANY(:used))
"""


@dataclass(frozen=True)
class Pruned:
    """What a pruning removed from Dagster's storage, in rows, and the runs that are left."""

    runs_removed: int
    runs_removable_later: int
    """Removable runs that this pruning left, because it removes no more than `MOST_RUNS`."""
    runs_kept: int
    check_executions_removed: int
    events_without_run_removed: int
    snapshots_removed: int


def prune_instance(
    instance: DagsterInstance,
    before: datetime,
    most_runs: int = MOST_RUNS,
    observed_before: datetime | None = None,
) -> Pruned:
    """Remove what ended before this instant and tells nothing about today's state, and return what that was.

    `observed_before`: the same for observations that no run made, if it is another instant.
    Safe beside runs, and after a kill at any moment: the next call continues. Raises `PlatformError` for a
    storage that it was not tested with.
    """
    with _connection(instance) as connection:
        removable = list(connection.execute(text(_REMOVABLE_RUNS), {"before": before}).scalars())
    for run_id in removable[:most_runs]:
        # `DagsterInstance.delete_run` in the other order: killed in between, it leaves a run that is found
        # next time, and not events that belong to no run.
        instance.event_log_storage.delete_events(run_id)
        instance.run_storage.delete_run(run_id)
    with _connection(instance) as connection:
        executions = connection.execute(text(_REMOVE_EXECUTIONS), {"before": before}).rowcount
        events = connection.execute(
            text(_REMOVE_EVENTS), {"before": before, "observed_before": observed_before or before}
        ).scalar_one()
        used = _used_snapshots(instance, connection)
        snapshots = connection.execute(text(_REMOVE_SNAPSHOTS), {"used": used}).rowcount
    return Pruned(
        runs_removed=len(removable[:most_runs]),
        runs_removable_later=len(removable[most_runs:]),
        runs_kept=instance.get_runs_count(),
        check_executions_removed=executions,
        events_without_run_removed=events,
        snapshots_removed=snapshots,
    )


@contextmanager
def _connection(instance: DagsterInstance) -> Iterator[Connection]:
    """Open a connection to Dagster's database. Each statement is a transaction."""
    storage = instance.event_log_storage
    installed = version("dagster-postgres")
    if not isinstance(storage, PostgresEventLogStorage):
        raise PlatformError(
            f"Dagster's events are in {type(storage).__name__}, and only those in PostgreSQL are pruned:"
            " start Dagster with the dagster.yaml of the platform's home"
        )
    if installed not in TESTED_VERSIONS:
        raise PlatformError(
            f"dagster-postgres is {installed}, and removing old runs was tested with"
            f" {', '.join(sorted(TESTED_VERSIONS))} only, so nothing was removed: install the versions of"
            " requirements/base.txt, or test this one and name it in TESTED_VERSIONS of"
            " ecommersss_platform/instance/pruning.py"
        )
    with storage.index_connection() as connection:
        yield connection


def _used_snapshots(instance: DagsterInstance, connection: Connection) -> list[str]:
    """Return the ids of the snapshots that runs need.

    These are their plans and their jobs, and if a job is a part of another one, that one.
    """
    used: list[Any] = list(connection.execute(text(_USED_SNAPSHOTS)))
    jobs = (instance.run_storage.get_job_snapshot(id_) for id_, kind in used if kind == "PIPELINE")
    parents = [job.lineage_snapshot.parent_snapshot_id for job in jobs if job.lineage_snapshot]
    return [id_ for id_, _ in used] + parents
