"""The load log, `raw.load_log`: which run left which rows in which day, and when a day last changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from ecommersss_platform.contracts import LOAD_LOG, PARTITION_COLUMN
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.dialect import Dialect
from ecommersss_platform.warehouse.names import full_name

if TYPE_CHECKING:
    from ecommersss_platform.warehouse.protocol import Warehouse

Entry = Mapping[str, str | int | date | datetime]
"""A row of `contracts.LOAD_LOG`. Not Arrow data, because making that from Python values loads pandas."""

_IDENTITY = ("partition_date", "table_name", "run_id", "checksum")
"""The columns that identify a load: a retry of a run that loads the same rows adds no entry."""

_OWN = ("partition_date", "row_count", "checksum")
"""The columns in which the entries of one load differ."""


def log_entries(
    table: str, run_id: str, rows: Mapping[date, int], checksums: Mapping[date, str], now: datetime
) -> Sequence[Entry]:
    """Return one entry for each day that a load replaced, with its columns in the contract's order."""
    return [
        {
            "partition_date": day,
            "table_name": table,
            "run_id": run_id,
            "row_count": count,
            "checksum": checksums[day],
            "days": len(rows),
            "loaded_at": now,
        }
        for day, count in rows.items()
    ]


def append_sql(target: str, log: Sequence[Entry], days: Days, dialect: Dialect) -> str:
    """Write the statement that appends the entries, which are of these days, except those already logged."""
    # A day takes 50 characters, so that 4,000 fit into BigQuery's million: what they share is written once.
    own = [column for column in dialect.columns(LOAD_LOG) if column.name in _OWN]
    rows = [[dialect.literal(entry[column.name]) for column in own] for entry in log]
    value = {
        name: f"entry.{dialect.quote(name)}" if name in _OWN else dialect.literal(shared)
        for name, shared in log[0].items()
    }
    same = " AND ".join(f"logged.{dialect.quote(name)} = {value[name]}" for name in _IDENTITY)
    return (
        f"INSERT INTO {target} ({dialect.column_list(LOAD_LOG)}) "  # noqa: S608
        f"SELECT {', '.join(value.values())} FROM {dialect.literal_rows(own, rows)} AS entry "
        f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS logged "
        f"WHERE {day_filter(days, f'logged.{PARTITION_COLUMN}')} AND {same})"
    )


@dataclass(frozen=True)
class LoadedDay:
    """A day of a raw table, as its loads left it."""

    table: str
    day: date
    changes: int
    """The loads that left other rows than the load before; the first one counts."""
    changed_at: datetime
    """When the last of these loads began to publish."""
    run_id: str
    """The run that loaded it last, with or without changes."""


def loaded_days(warehouse: Warehouse) -> list[LoadedDay]:
    """Return every day of every raw table that was ever loaded.

    Raises `TableNotFound` or `QueryError` if nothing was loaded yet.
    """
    loads = f"OVER (PARTITION BY table_name, {PARTITION_COLUMN} ORDER BY loaded_at"
    changed = "previous IS NULL OR previous <> checksum"
    rows = warehouse.query(
        f"SELECT table_name, {PARTITION_COLUMN} AS day, "  # noqa: S608
        f"count(CASE WHEN {changed} THEN 1 END) AS changes, "
        f"max(CASE WHEN {changed} THEN loaded_at END) AS changed_at, "
        "max(newest_run) AS run_id "
        f"FROM (SELECT *, lag(checksum) {loads}) AS previous, "
        f"first_value(run_id) {loads} DESC) AS newest_run "
        f"FROM {full_name(LOAD_LOG)}) AS loads GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return [LoadedDay(*row.values()) for row in rows.to_pylist()]
