"""The load log, `raw.load_log`: which run left which rows in which day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

from ecommersss_platform.contracts import LOAD_LOG, PARTITION_COLUMN
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.dialect import Dialect

Entry = Mapping[str, str | int | date | datetime]
"""A row of `contracts.LOAD_LOG`. Not Arrow data, because making that from Python values loads pandas."""

_IDENTITY = ("partition_date", "table_name", "run_id", "checksum")
"""The columns that identify a load: a retry of a run that loads the same rows adds no entry."""


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
    quote = dialect.quote
    names = [quote(c.name) for c in LOAD_LOG.columns]
    source = dialect.literal_rows(names, [[dialect.literal(v) for v in entry.values()] for entry in log])
    columns = ", ".join(names)
    same = " AND ".join(f"logged.{quote(name)} = entry.{quote(name)}" for name in _IDENTITY)
    return (
        f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source} AS entry "  # noqa: S608
        f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS logged "
        f"WHERE {day_filter(days, f'logged.{PARTITION_COLUMN}')} AND {same})"
    )
