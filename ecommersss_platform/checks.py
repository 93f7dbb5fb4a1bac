"""Asset checks on days: is the newest closed day materialised, and does it reconcile with its source?"""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    DailyPartitionsDefinition,
    ResourceParam,
    asset_check,
    multi_asset_check,
)

from ecommersss_platform.contracts import RAW_TABLES, RawTable
from ecommersss_platform.days import DAY, Days
from ecommersss_platform.partitions import days_to_check
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reconciliation import reconcile
from ecommersss_platform.warehouse import Warehouse
from streaming.business_days import JAKARTA, business_day

DUE = timedelta(hours=4)
"""How long after midnight (Asia/Jakarta) a closed day may still be missing. It is loaded at 03:00."""

NEWEST_CLOSED_DAY = "newest_closed_day_present"
"""The check of each table that speaks of today, not of the days of a run: no part of the daily job."""

FACTS = AssetKey(["silver", "fact_orders"])


def day_checks(partitions_def: DailyPartitionsDefinition, pool: str | None) -> list[AssetChecksDefinition]:
    """Return the checks of everything that is loaded by day. `pool` is `Warehouse.pool`.

    The reconciliations are blocking: facts and marts are built only from days whose rows and money agree in
    PostgreSQL and raw. That facts agree with raw is a test of dbt's.
    """
    return [
        *raw_checks(partitions_def, pool),
        _freshness(FACTS, partitions_def),
    ]


def checks_of_today(checks: Sequence[AssetChecksDefinition]) -> list[AssetChecksDefinition]:
    """Return those of the checks that speak of today, whatever the days of a run."""
    return [check for check in checks if any(key.name == NEWEST_CLOSED_DAY for key in check.check_keys)]


def raw_checks(
    partitions_def: DailyPartitionsDefinition, pool: str | None, tables: Sequence[RawTable] = RAW_TABLES
) -> list[AssetChecksDefinition]:
    """Return the checks of these raw tables, two for each. One step reconciles all that a run loads."""
    return [
        *(_freshness(AssetKey([table.dataset, table.name]), partitions_def) for table in tables),
        _reconciliation(tables, pool),
    ]


def newest_due_day(now: datetime) -> date:
    """Return the newest closed business day that should have been loaded by `now`."""
    return business_day(now - DUE) - DAY


def missing_days(first: date, newest_due: date, present: Collection[str]) -> list[date]:
    """Return the due days, from the first on, that are not among the present partition keys."""
    if newest_due < first:
        return []
    return [day for day in Days.between(first, newest_due) if day.isoformat() not in present]


def _freshness(key: AssetKey, partitions_def: DailyPartitionsDefinition) -> AssetChecksDefinition:
    @asset_check(
        asset=key,
        name=NEWEST_CLOSED_DAY,
        description="The newest closed business day is materialised, once it has had time to load.",
    )
    def newest_closed_day_present(context: AssetCheckExecutionContext) -> AssetCheckResult:
        # Look at materialised partitions, not at rows: a day without rows counts too.
        present = context.instance.get_materialized_partitions(key)
        return freshness_result(partitions_def.start.date(), newest_due_day(datetime.now(JAKARTA)), present)

    return newest_closed_day_present


def freshness_result(first: date, newest_due: date, present: Collection[str]) -> AssetCheckResult:
    """Return a warning if the newest due day is missing. Older gaps are only counted."""
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


def _reconciliation(tables: Sequence[RawTable], pool: str | None) -> AssetChecksDefinition:
    contracts = {AssetKey([table.dataset, table.name]): table for table in tables}

    # One step, because each costs 0.2 s besides its work.
    @multi_asset_check(
        name="reconcile_raw_tables",
        specs=[
            AssetCheckSpec(
                "reconciles_with_postgres",
                asset=key,
                description="Each day of the run (else the newest day) has the rows and money of PostgreSQL.",
                blocking=True,
            )
            for key in contracts
        ],
        can_subset=True,
        pool=pool,
    )
    def reconcile_raw_tables(
        context: AssetCheckExecutionContext, postgres: PostgresResource, warehouse: ResourceParam[Warehouse]
    ) -> Iterator[AssetCheckResult]:
        today = business_day(datetime.now(UTC))
        for check in sorted(context.selected_asset_check_keys):
            key = check.asset_key
            days = days_to_check(context, key)
            if days is None:
                result = AssetCheckResult(passed=True, description="nothing is materialised yet")
            else:
                result = reconcile(contracts[key], days, postgres, warehouse, today)
            yield result._replace(asset_key=key, check_name=check.name)

    return reconcile_raw_tables
