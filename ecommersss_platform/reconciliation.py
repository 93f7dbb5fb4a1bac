"""Reconciliation: are the rows and the money of a day the same in PostgreSQL and in raw?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
from dagster import AssetCheckResult, AssetCheckSeverity

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.names import full_name

_CENT = Decimal("0.01")


@dataclass(frozen=True)
class Total:
    """The rows of a day, and the sum of their money if the table has any."""

    rows: int = 0
    money: Decimal = Decimal(0)

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.money} rupiah" if self.money else f"{self.rows} rows"


def differences(source: Mapping[date, Total], target: Mapping[date, Total]) -> list[str]:
    """Return one sentence for each day on which PostgreSQL and the warehouse differ."""
    return [
        f"{day}: PostgreSQL has {source.get(day, Total())}, the warehouse {target.get(day, Total())}"
        for day in sorted({*source, *target})
        if source.get(day, Total()) != target.get(day, Total())
    ]


@dataclass(frozen=True)
class Comparison:
    """Days of a table in PostgreSQL, up to the high-water mark of the load, and in the warehouse."""

    source: Mapping[date, Total]
    target: Mapping[date, Total]
    late: Mapping[date, int]
    """The rows of each day above the mark: they were written after the load."""


def compare(table: RawTable, days: Days, postgres: PostgresResource, warehouse: Warehouse) -> Comparison:
    """Return the totals of these days on both sides. A day without rows is missing."""
    target, mark = _warehouse_totals(table, days, warehouse)
    source, late = _postgres_totals(table, days, postgres, mark)
    return Comparison(source, target, late)


def incomplete_days(
    table: RawTable, last: date, postgres: PostgresResource, warehouse: Warehouse
) -> list[date]:
    """Return the days up to `last` of which the warehouse has another number of rows than PostgreSQL.

    Counts the rows of all days on both sides.
    """
    days = Days.between(date(1970, 1, 1), last)
    loaded = _warehouse_totals(table, days, warehouse)[0] if warehouse.newest_day(table) else {}
    _, written = _postgres_totals(table, days, postgres, mark=-1)
    return sorted(day for day, rows in written.items() if rows != loaded.get(day, Total()).rows)


def reconcile(
    table: RawTable, days: Days, postgres: PostgresResource, warehouse: Warehouse, today: date
) -> AssetCheckResult:
    """Compare days in the warehouse with PostgreSQL, up to the high-water mark of the load.

    A difference up to the mark is an error. Rows above it were written after the load: they are no
    difference, but on a closed day they are a warning, because the day needs to be materialised again.
    """
    compared = compare(table, days, postgres, warehouse)
    wrong = differences(compared.source, compared.target)
    late_closed = {day: rows for day, rows in compared.late.items() if day < today}
    metadata: dict[str, Any] = {
        "days": str(days),
        "rows": sum(total.rows for total in compared.target.values()),
        "rows_since_the_load": sum(compared.late.values()),
    }
    if wrong:
        return AssetCheckResult(
            passed=False, severity=AssetCheckSeverity.ERROR, description="; ".join(wrong), metadata=metadata
        )
    return AssetCheckResult(
        passed=not late_closed,
        severity=AssetCheckSeverity.WARN,
        description=(
            "rows were written after the load, materialise again: "
            + ", ".join(f"{day} ({rows})" for day, rows in late_closed.items())
            if late_closed
            else None
        ),
        metadata=metadata,
    )


def totals_sql(table: str, days: Days, money: str, *more: str) -> str:
    """Return a SELECT of `day`, `n` (rows), `money` (summed) and more columns, for each day that has rows."""
    columns = ", ".join(
        [f"{PARTITION_COLUMN} AS day", "count(*) AS n", f"coalesce(sum({money}), 0) AS money", *more]
    )
    return f"SELECT {columns} FROM {table} WHERE {day_filter(days)} GROUP BY 1"  # noqa: S608


def _money(table: RawTable) -> str:
    """Return the expression of a row's money: the sum of its money columns, NULL counting as zero."""
    return " + ".join(f"coalesce({name}, 0)" for name in table.money_columns) or "0"


def _totals(rows: pa.Table) -> dict[date, Total]:
    # BigQuery sums money with nine decimal places.
    return {row["day"]: Total(row["n"], Decimal(row["money"]).quantize(_CENT)) for row in rows.to_pylist()}


def _warehouse_totals(table: RawTable, days: Days, warehouse: Warehouse) -> tuple[dict[date, Total], int]:
    """Return the warehouse's total of each day, and the high-water mark (-1 without rows)."""
    mark = f"max({table.high_water}) AS mark"
    rows = warehouse.query(totals_sql(full_name(table), days, _money(table), mark))
    return _totals(rows), max(rows.column("mark").to_pylist(), default=-1)


def _postgres_totals(
    table: RawTable, days: Days, postgres: PostgresResource, mark: int
) -> tuple[dict[date, Total], dict[date, int]]:
    """Return PostgreSQL's total of each day up to the mark, and the number of rows above it."""
    sql, params = table.select(days)
    rows = postgres.stream(
        f"SELECT {PARTITION_COLUMN} AS day, {table.high_water} <= %(mark)s AS loaded, count(*) AS n, "  # noqa: S608
        f"coalesce(sum({_money(table)}), 0) AS money FROM ({sql}) AS rows GROUP BY 1, 2",
        {**params, "mark": mark},
        pa.schema(
            [
                ("day", pa.date32()),
                ("loaded", pa.bool_()),
                ("n", pa.int64()),
                ("money", pa.decimal128(38, 2)),
            ]
        ),
    )
    totals: dict[date, Total] = {}
    late: dict[date, int] = {}
    for row in rows.read_all().to_pylist():
        if row["loaded"]:
            totals[row["day"]] = Total(row["n"], row["money"])
        else:
            late[row["day"]] = row["n"]
    return totals, late
