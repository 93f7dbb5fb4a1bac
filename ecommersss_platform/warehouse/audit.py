"""The audit of staged rows: one scan that counts every broken rule, and the findings as sentences.

The SQL is common to all dialects but for what `Dialect` holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable
from ecommersss_platform.partitions import Days


@dataclass(frozen=True)
class Dialect:
    quote: Callable[[str], str]
    """An identifier as the dialect quotes it."""
    business_day: Callable[[str], str]
    """The business day (a DATE, Asia/Jakarta) of an expression that is an instant."""
    try_cast: Callable[[str, str], str]
    """An expression as a type, by the dialect's name of it; NULL where it cannot be."""


def day_filter(days: Days, column: str = PARTITION_COLUMN) -> str:
    """The half-open window as a condition with constant bounds, which every engine prunes partitions by."""
    return f"{column} >= DATE '{days.first}' AND {column} < DATE '{days.end}'"


def audit_sql(table: RawTable, staging: str, days: Days | None, dialect: Dialect) -> str:
    """A SELECT of one row: `staged_rows`, `repeated_keys`, and per rule the rows that break it.

    `wrong_range` and `wrong_day` come with an example key each (`..._key`).
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
        rules["wrong_day"] = f"{partition} <> {dialect.business_day(quote(table.instant))}"
    for name, broken in rules.items():
        counts.append(f"count(CASE WHEN {broken} THEN 1 END) AS {name}")
        if table.key:
            counts.append(f"min(CASE WHEN {broken} THEN {quote(table.key[0])} END) AS {name}_key")
    if table.key:
        keys = ", ".join(quote(name) for name in table.key)
        repeated = f"SELECT 1 FROM {staging} GROUP BY {keys} HAVING count(*) > 1"  # noqa: S608
        counts.append(f"(SELECT count(*) FROM ({repeated}) AS repeated) AS repeated_keys")  # noqa: S608
    return f"SELECT {', '.join(counts)} FROM {staging}"  # noqa: S608


def required_columns(table: RawTable) -> list[str]:
    return [c.name for c in table.columns if not c.nullable or c.name in table.key]


def findings(table: RawTable, days: Days | None, extracted: int, counts: Mapping[str, Any]) -> list[str]:
    """What the audit's row says is wrong, each in a sentence; nothing when the rows may be published."""
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
    """A SELECT of (day, status, rows) of what is staged; the status is NULL where the contract has none."""
    day = dialect.quote(PARTITION_COLUMN)
    status = dialect.quote(table.status) if table.status else "NULL"
    return f"SELECT {day}, {status}, count(*) FROM {staging} GROUP BY 1, 2 ORDER BY 1, 2"  # noqa: S608


def per_day(
    table: RawTable, days: Days, tally: Iterable[tuple[date, Any, int]]
) -> tuple[dict[date, int], dict[date, dict[str, int]]]:
    """Rows per asked day, also those without any, and per day and status, from the rows of `tally_sql`."""
    rows_per_day = dict.fromkeys(days, 0)
    statuses: dict[date, dict[str, int]] = {day: {} for day in days} if table.status else {}
    for day, status, rows in tally:
        rows_per_day[day] += rows
        if table.status:
            statuses[day][str(status).lower()] = rows
    return rows_per_day, statuses
