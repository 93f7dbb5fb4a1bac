"""The load log, `raw.load_log`: which run left which rows in which day."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime

from ecommersss_platform.contracts import LOAD_LOG

Entry = Mapping[str, object]
"""A row of `contracts.LOAD_LOG`. Not Arrow data: to make that of Python values loads pandas."""

_SAME = ("partition_date", "table_name", "run_id", "checksum")
"""What makes two entries tell of the same load: a retry of a run that loads the same rows adds none."""


def entries(
    table: str, run_id: str, rows: Mapping[date, int], checksums: Mapping[date, str], now: datetime
) -> Sequence[Entry]:
    """One entry for each day that a load replaced, with its columns in the contract's order."""
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


def append_sql(target: str, source: str, logged_days: str, quote: Callable[[str], str]) -> str:
    """A statement that appends the source's entries which the log does not have yet.

    `logged_days` is a condition on `logged.partition_date`, with constant bounds: the days of the source.
    """
    columns = ", ".join(quote(c.name) for c in LOAD_LOG.columns)
    same = " AND ".join(f"logged.{quote(name)} = entry.{quote(name)}" for name in _SAME)
    return (
        f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source} AS entry "  # noqa: S608
        f"WHERE NOT EXISTS (SELECT 1 FROM {target} AS logged WHERE {logged_days} AND {same})"
    )
