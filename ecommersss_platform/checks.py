"""Asset checks of days: is the newest closed one there, and is it the same in PostgreSQL, raw and facts?"""

# Annotations must be real here: Dagster judges `context` and the resources by them.
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetKey,
    DailyPartitionsDefinition,
    ResourceParam,
    asset_check,
)

from ecommersss_platform.contracts import ORDERS, PARTITION_COLUMN, RAW_TABLES, RawTable, Type
from ecommersss_platform.jobs import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG
from ecommersss_platform.partitions import DAY, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.names import full_name
from streaming.business_days import JAKARTA, business_day

DUE = timedelta(hours=4)
"""How long after midnight (Asia/Jakarta) a closed day may still be missing: it is loaded at 03:00."""

_MARKS = {"orders": "position", "users": "version", "products": "version"}
"""Per table, the column that grows with the order in which rows were written."""


FACTS = AssetKey(["silver", "fact_orders"])


def day_checks(partitions_def: DailyPartitionsDefinition, pool: str | None) -> list[AssetChecksDefinition]:
    """The checks of what is loaded by day. `pool` is the warehouse's (`Warehouse.pool`).

    Those that reconcile block what comes after: the marts are made only of days whose rows and money are in
    PostgreSQL, in raw and in the facts the same.
    """
    return [
        *raw_checks(partitions_def, pool),
        _freshness(FACTS, partitions_def),
        _fact_reconciliation(pool),
    ]


def raw_checks(partitions_def: DailyPartitionsDefinition, pool: str | None) -> list[AssetChecksDefinition]:
    """The checks of every raw table."""
    return [
        check
        for table in RAW_TABLES
        for check in (_freshness(_key(table), partitions_def), _reconciliation(table, pool))
    ]


def _key(table: RawTable) -> AssetKey:
    return AssetKey([table.dataset, table.name])


def newest_due_day(now: datetime) -> date:
    """The newest closed business day that should have been loaded by `now`."""
    return business_day(now - DUE) - DAY


def missing_days(first: date, newest_due: date, present: Collection[str]) -> list[date]:
    """The due days, from the first on, that are not among the partition keys present."""
    if newest_due < first:
        return []
    return [day for day in Days.between(first, newest_due) if day.isoformat() not in present]


def _freshness(key: AssetKey, partitions_def: DailyPartitionsDefinition) -> AssetChecksDefinition:
    @asset_check(
        asset=key,
        name="newest_closed_day_present",
        description="The newest business day that is closed, and had time to be loaded, is materialised.",
    )
    def newest_closed_day_present(context: AssetCheckExecutionContext) -> AssetCheckResult:
        # Materialised partitions, not rows: a day without rows is a day too.
        present = context.instance.get_materialized_partitions(key)
        return freshness_result(partitions_def.start.date(), newest_due_day(datetime.now(JAKARTA)), present)

    return newest_closed_day_present


def freshness_result(first: date, newest_due: date, present: Collection[str]) -> AssetCheckResult:
    """Fails, as a warning, when the newest due day is missing; older gaps are shown but do not fail."""
    missing = missing_days(first, newest_due, present)
    late = newest_due in missing
    return AssetCheckResult(
        passed=not late,
        severity=AssetCheckSeverity.WARN,
        description=f"{newest_due} is not materialised: materialise it" if late else None,
        metadata={
            "newest_due_day": newest_due.isoformat(),
            "newest_day": max(present, default="none"),
            "missing_days": len(missing),
        },
    )


@dataclass(frozen=True)
class Total:
    """Rows of a day, and the sum of their money where the table has any."""

    rows: int = 0
    money: Decimal = Decimal(0)

    def __str__(self) -> str:
        return f"{self.rows} rows, {self.money} rupiah" if self.money else f"{self.rows} rows"


def differences(
    source: Mapping[date, Total],
    target: Mapping[date, Total],
    names: tuple[str, str] = ("PostgreSQL", "the warehouse"),
) -> list[str]:
    """One sentence for each day on which the source and the target, so named, differ."""
    return [
        f"{day}: {names[0]} has {source.get(day, Total())}, {names[1]} {target.get(day, Total())}"
        for day in sorted({*source, *target})
        if source.get(day, Total()) != target.get(day, Total())
    ]


def asked_days(tags: Mapping[str, str], present: Collection[str]) -> Days | None:
    """The days of a run, by its tags; of a run without partitions the newest day present, if there is one.

    By the tags, because partitions of asset checks are a preview in Dagster, and not for production.
    """
    first = tags.get(RANGE_START_TAG) or tags.get(PARTITION_TAG) or max(present, default=None)
    last = tags.get(RANGE_END_TAG) or first
    return Days.between(date.fromisoformat(first), date.fromisoformat(last)) if first and last else None


def _reconciliation(table: RawTable, pool: str | None) -> AssetChecksDefinition:
    key = _key(table)

    @asset_check(
        asset=key,
        name="reconciles_with_postgres",
        description="Rows and money of each day of the run (else of the newest day) are those in PostgreSQL.",
        blocking=True,
        pool=pool,
    )
    def reconciles_with_postgres(
        context: AssetCheckExecutionContext, postgres: PostgresResource, warehouse: ResourceParam[Warehouse]
    ) -> AssetCheckResult:
        days = asked_days(context.run.tags, context.instance.get_materialized_partitions(key))
        if days is None:
            return AssetCheckResult(passed=True, description="nothing is materialised yet")
        return reconcile(table, days, postgres, warehouse, today=business_day(datetime.now(JAKARTA)))

    return reconciles_with_postgres


def _fact_reconciliation(pool: str | None) -> AssetChecksDefinition:
    @asset_check(
        asset=FACTS,
        name="reconciles_with_raw",
        description="Rows and money of each day of the run (else of the newest day) are those in raw.orders.",
        blocking=True,
        pool=pool,
    )
    def reconciles_with_raw(
        context: AssetCheckExecutionContext, warehouse: ResourceParam[Warehouse]
    ) -> AssetCheckResult:
        days = asked_days(context.run.tags, context.instance.get_materialized_partitions(FACTS))
        if days is None:
            return AssetCheckResult(passed=True, description="nothing is materialised yet")
        return reconcile_facts(days, warehouse)

    return reconciles_with_raw


def reconcile_facts(days: Days, warehouse: Warehouse) -> AssetCheckResult:
    """Compare the days of the facts with those of `raw.orders`. Any difference is an error."""
    source, target = (
        _totals(warehouse.query(totals_sql(name, days, "amount")))
        for name in (full_name(ORDERS), ".".join(FACTS.path))
    )
    wrong = differences(source, target, (full_name(ORDERS), ".".join(FACTS.path)))
    return AssetCheckResult(
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        description="; ".join(wrong) or None,
        metadata={
            "rows": sum(total.rows for total in target.values()),
            "rupiah": str(sum((total.money for total in target.values()), Decimal(0))),
        },
    )


def totals_sql(table: str, days: Days, money: str, *more: str) -> str:
    """A SELECT of `day`, `n` (rows), `money` (summed up) and more, of each day that has rows."""
    columns = ", ".join(
        [f"{PARTITION_COLUMN} AS day", "count(*) AS n", f"coalesce(sum({money}), 0) AS money", *more]
    )
    return f"SELECT {columns} FROM {table} WHERE {day_filter(days)} GROUP BY 1"  # noqa: S608


def _totals(rows: pa.Table) -> dict[date, Total]:
    cent = Decimal("0.01")  # BigQuery sums money up with nine places
    return {row["day"]: Total(row["n"], Decimal(row["money"]).quantize(cent)) for row in rows.to_pylist()}


def reconcile(
    table: RawTable, days: Days, postgres: PostgresResource, warehouse: Warehouse, today: date
) -> AssetCheckResult:
    """Compare the days in the warehouse with PostgreSQL's rows up to the newest that the warehouse has.

    A difference there is an error. Rows written after it are no difference: they came since the load. On a
    closed day they are a warning, for the day is to be materialised again.
    """
    target, newest = _warehouse_totals(table, days, warehouse)
    source, late = _postgres_totals(table, days, postgres, newest)
    wrong = differences(source, target)
    late_closed = {day: rows for day, rows in late.items() if day < today}
    metadata: dict[str, Any] = {
        "rows": sum(total.rows for total in target.values()),
        "rows_since_the_load": sum(late.values()),
    }
    if wrong:
        return AssetCheckResult(
            passed=False, severity=AssetCheckSeverity.ERROR, description="; ".join(wrong), metadata=metadata
        )
    return AssetCheckResult(
        passed=not late_closed,
        severity=AssetCheckSeverity.WARN,
        description=(
            "rows came after the load, materialise again: "
            + ", ".join(f"{day} ({rows})" for day, rows in late_closed.items())
            if late_closed
            else None
        ),
        metadata=metadata,
    )


def _money(table: RawTable) -> str:
    """A row's money: its money columns together, or nothing."""
    return " + ".join(c.name for c in table.columns if c.type is Type.MONEY) or "0"


def _warehouse_totals(table: RawTable, days: Days, warehouse: Warehouse) -> tuple[dict[date, Total], int]:
    """Per day what the warehouse has, and the mark of the newest row (-1 without rows)."""
    newest = f"max({_MARKS[table.name]}) AS newest"
    rows = warehouse.query(totals_sql(full_name(table), days, _money(table), newest))
    return _totals(rows), max(rows.column("newest").to_pylist(), default=-1)


def _postgres_totals(
    table: RawTable, days: Days, postgres: PostgresResource, newest: int
) -> tuple[dict[date, Total], dict[date, int]]:
    """Per day what PostgreSQL has up to the mark `newest`, and the number of rows after it."""
    sql, params = table.select(days)
    mark = _MARKS[table.name]
    rows = postgres.stream(
        f"SELECT {PARTITION_COLUMN} AS day, {mark} <= %(newest)s AS loaded, count(*) AS n, "  # noqa: S608
        f"coalesce(sum({_money(table)}), 0) AS money FROM ({sql}) AS rows GROUP BY 1, 2",
        {**params, "newest": newest},
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
