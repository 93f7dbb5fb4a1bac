"""The audit of staged rows: one scan that counts every broken rule, and the findings as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.dialect import Dialect


def day_filter(days: Days, column: str = PARTITION_COLUMN) -> str:
    """Write the half-open window as a condition with constant bounds, so that engines prune partitions."""
    return f"{column} >= DATE '{days.first}' AND {column} < DATE '{days.end}'"


def audit_sql(table: RawTable, staging: str, days: Days | None, dialect: Dialect) -> str:
    """Write the SELECT of one row: `staged_rows`, `repeated_keys`, and the rows that break each rule.

    `wrong_range` and `wrong_day` each come with an example key (`..._key`).
    """
    quote = dialect.quote
    counts = ["count(*) AS staged_rows"]
    counts += [
        f"count(*) - count({quote(name)}) AS {quote(f'null_{name}')}" for name in required_columns(table)
    ]
    rules = {}
    partition = quote(PARTITION_COLUMN)
    if days is not None:
        rules["wrong_range"] = f"COALESCE(NOT ({day_filter(days, partition)}), TRUE)"
    if table.instant in {c.name for c in table.columns}:
        rules["wrong_day"] = _wrong_day(partition, quote(table.instant), days, dialect)
    for name, broken in rules.items():
        counts.append(f"count(CASE WHEN {broken} THEN 1 END) AS {name}")
        if table.key:
            counts.append(f"min(CASE WHEN {broken} THEN {quote(table.key[0])} END) AS {name}_key")
    if table.key:
        keys = ", ".join(quote(name) for name in table.key)
        repeated = f"SELECT 1 FROM {staging} GROUP BY {keys} HAVING count(*) > 1"  # noqa: S608
        counts.append(f"(SELECT count(*) FROM ({repeated}) AS repeated) AS repeated_keys")  # noqa: S608
    return f"SELECT {', '.join(counts)} FROM {staging}"  # noqa: S608


def _wrong_day(partition: str, instant: str, days: Days | None, dialect: Dialect) -> str:
    """Write the condition that the partition is not the business day of the instant.

    For a single day, its bounds are compared: computing the day of each row takes half of the audit's time.
    Rows of other partitions are then outside the range, and found as such.
    """
    if days is None or len(days) > 1:
        return f"{partition} <> {dialect.business_day(instant)}"
    start, end = dialect.literal(days.start_instant), dialect.literal(days.end_instant)
    return f"{partition} = {dialect.literal(days.first)} AND ({instant} < {start} OR {instant} >= {end})"


def required_columns(table: RawTable) -> list[str]:
    return [c.name for c in table.columns if not c.nullable or c.name in table.key]


def findings(table: RawTable, days: Days | None, extracted: int, counts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each broken rule in the audit's row; none if the rows may be published."""
    found = []
    if counts["staged_rows"] != extracted:
        found.append(f"{extracted} rows were extracted but {counts['staged_rows']} staged")
    found += [
        f"{counts[f'null_{name}']} rows have no {name}"
        for name in required_columns(table)
        if counts[f"null_{name}"]
    ]
    if counts.get("repeated_keys"):
        found.append(
            f"{counts['repeated_keys']} values of the key ({', '.join(table.key)}) occur more than once"
        )
    if counts.get("wrong_range"):
        found.append(
            f"{counts['wrong_range']} rows have a {PARTITION_COLUMN} outside {days}"
            f"{_example(table, 'wrong_range', counts)}"
        )
    if counts.get("wrong_day"):
        found.append(
            f"{counts['wrong_day']} rows have a {PARTITION_COLUMN} that is not the business day of "
            f"{table.instant}{_example(table, 'wrong_day', counts)}"
        )
    return found


def _example(table: RawTable, rule: str, counts: Mapping[str, Any]) -> str:
    key = counts.get(f"{rule}_key")
    return "" if key is None else f", for example {table.key[0]} {key}"


def tally_sql(table: RawTable, staging: str, dialect: Dialect) -> str:
    """Write the SELECT of (day, status, rows) of the staged rows. Without a status column, it is NULL."""
    day = dialect.quote(PARTITION_COLUMN)
    status = dialect.quote(table.status) if table.status else "NULL"
    return f"SELECT {day}, {status}, count(*) FROM {staging} GROUP BY 1, 2 ORDER BY 1, 2"  # noqa: S608


def per_day(
    table: RawTable, days: Days, tally: Iterable[tuple[date, Any, int]]
) -> tuple[dict[date, int], dict[date, dict[str, int]]]:
    """Return rows per day, and rows per day and status, from the rows of `tally_sql`.

    Every requested day is included, even without rows.
    """
    rows_per_day = dict.fromkeys(days, 0)
    statuses: dict[date, dict[str, int]] = {day: {} for day in days} if table.status else {}
    for day, status, rows in tally:
        rows_per_day[day] += rows
        if table.status:
            statuses[day][str(status).lower()] = rows
    return rows_per_day, statuses
