"""Asset checks on days: are they in every table, reconciled with the source, and decided as by the stream?"""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    DailyPartitionsDefinition,
    MetadataValue,
    ResourceParam,
    TableMetadataValue,
    TableRecord,
    multi_asset_check,
)

from ecommersss_platform.contracts import RAW_TABLES, RawTable
from ecommersss_platform.freshness import (
    EXPECTED,
    ORDERS,
    Expected,
    due_at,
    lateness,
    missing_days,
    newest_due_day,
)
from ecommersss_platform.partitions import days_to_check
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reconciliation import reconcile
from ecommersss_platform.warehouse import Warehouse
from streaming.business_days import business_day

NEWEST_CLOSED_DAY = "newest_closed_day_present"
"""The check of each table that speaks of today, not of the days of a run: no part of the daily job."""

FACTS = AssetKey(["silver", "fact_orders"])
FEATURES = AssetKey(["silver", "order_features"])

PARITY = "stream_and_warehouse_decide_alike"
"""The check that the reasons of orders, computed in the warehouse, are those that the stream stored."""


def day_checks(partitions_def: DailyPartitionsDefinition, pool: str | None) -> list[AssetChecksDefinition]:
    """Return reconciliation, parity and the freshness of all tables. `pool` is `Warehouse.pool`.

    The reconciliations are blocking: facts and marts are built only from days whose rows and money agree in
    PostgreSQL and raw. That facts agree with raw is a test of dbt's. Parity is not: the stream has decided,
    and marts of its verdicts are right even if the warehouse would decide otherwise.
    """
    return [reconciliation(pool), parity(pool), freshness(partitions_def)]


def checks_of_today(checks: Sequence[AssetChecksDefinition]) -> list[AssetChecksDefinition]:
    """Return those of the checks that speak of today, whatever the days of a run."""
    return [check for check in checks if any(key.name == NEWEST_CLOSED_DAY for key in check.check_keys)]


def freshness(
    partitions_def: DailyPartitionsDefinition, expected: Sequence[Expected] = EXPECTED
) -> AssetChecksDefinition:
    """Return the check of each of these tables that the newest closed day is in it, all in one step.

    `sensors.freshness_sensor` evaluates them every few minutes, without a run. People run them in the UI.
    """
    tables = {AssetKey.from_user_string(table.key): table for table in expected}

    @multi_asset_check(
        name="freshness",
        specs=[
            AssetCheckSpec(
                NEWEST_CLOSED_DAY,
                asset=key,
                description="The newest closed business day is in the table, once it has had time to load.",
            )
            for key in tables
        ],
        can_subset=True,
    )
    def evaluate(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        selected = [tables[check.asset_key] for check in sorted(context.selected_asset_check_keys)]
        first, now = partitions_def.start.date(), datetime.now(UTC)
        for key, result in freshness_results(context.instance, selected, first, now).items():
            yield result._replace(asset_key=AssetKey.from_user_string(key), check_name=NEWEST_CLOSED_DAY)

    return evaluate


def freshness_results(
    instance: DagsterInstance, tables: Iterable[Expected], first: date, now: datetime
) -> dict[str, AssetCheckResult]:
    """Return the result of each of these tables by its key. `first`: the first partition."""
    orders = AssetKey.from_user_string(ORDERS)

    @cache
    def loaded(day: date, due: timedelta) -> datetime | None:
        return _newest_event(instance, orders, day.isoformat(), due_at(day, due))

    found = {}
    for table in tables:
        day = newest_due_day(now, table.due)
        needed = loaded(day, table.due) if day >= first else None
        found[table.key] = freshness_result(instance, table, first, day, needed)
    return found


def freshness_result(
    instance: DagsterInstance, table: Expected, first: date, day: date, loaded: datetime | None
) -> AssetCheckResult:
    """Return a warning if the newest due day is not in the table. Older gaps are only counted.

    Looks at events of partitions, not at rows: a day without rows counts too. `loaded`: when the orders of
    the day were last loaded before it was due.
    """
    key = AssetKey.from_user_string(table.key)
    late = None
    if day >= first:
        updated = _newest_event(instance, key, day.isoformat() if table.by_day else None)
        late = lateness(table, day, updated, loaded)
    metadata: dict[str, str | int] = {"newest_due_day": day.isoformat()}
    if table.by_day:
        present = instance.get_materialized_partitions(key)
        metadata["newest_day"] = max(present, default="none")
        metadata["missing_days"] = len(missing_days(first, day, present))
    return AssetCheckResult(
        passed=late is None, severity=AssetCheckSeverity.WARN, description=late, metadata=metadata
    )


def _newest_event(
    instance: DagsterInstance, key: AssetKey, partition: str | None, before: datetime | None = None
) -> datetime | None:
    """Return when a table, or a partition of it, was last built, or observed to need no build."""
    chosen = AssetRecordsFilter(
        key,
        asset_partitions=None if partition is None else [partition],
        before_timestamp=None if before is None else before.timestamp(),
    )
    pages = (instance.fetch_materializations(chosen, limit=1), instance.fetch_observations(chosen, limit=1))
    times = [datetime.fromtimestamp(record.timestamp, UTC) for page in pages for record in page.records]
    return max(times, default=None)


def reconciliation(pool: str | None, tables: Sequence[RawTable] = RAW_TABLES) -> AssetChecksDefinition:
    """Return the blocking check of each of these raw tables. One step reconciles all that a run loads."""
    contracts = {AssetKey(table.path): table for table in tables}

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


def parity(pool: str | None) -> AssetChecksDefinition:
    """Return the check that stream and warehouse decide alike (see `laboratory/parity.py`)."""

    @multi_asset_check(
        name="parity",
        specs=[
            AssetCheckSpec(
                PARITY,
                asset=FEATURES,
                additional_deps=[
                    FACTS,
                    AssetKey(["bronze", "stg_rule_books"]),
                    AssetKey(["bronze", "stg_rule_exemption_events"]),
                ],
                description="For each order of the days of the run (else of the newest day), the rule book,"
                " lists and exemptions that decided give the reasons that the stream stored. Orders of books"
                " that are not kept are counted apart. `ecommersss rules parity` does it for any days.",
            )
        ],
        pool=pool,
    )
    def compare(context: AssetCheckExecutionContext, warehouse: ResourceParam[Warehouse]) -> AssetCheckResult:
        # Brings the parser of rules, which loading the code location does not need.
        from ecommersss_platform.laboratory.parity import compare_verdicts

        days = days_to_check(context, FEATURES)
        if days is None:
            return AssetCheckResult(passed=True, description="nothing is materialised yet")
        found = compare_verdicts(warehouse, days)
        wrong = bool(found.differing or found.unusable)
        return AssetCheckResult(
            passed=found.holds,
            severity=AssetCheckSeverity.ERROR if wrong else AssetCheckSeverity.WARN,
            description=found.summary,
            metadata={
                "days": str(days),
                **found.counts,
                **({"first_differences": _table(found.examples)} if found.examples else {}),
            },
        )

    return compare


def _table(differences: Iterable[Any]) -> TableMetadataValue:
    """Return the orders that differ as a table."""
    return MetadataValue.table(
        [TableRecord({name: _shown(value) for name, value in asdict(one).items()}) for one in differences]
    )


def _shown(value: Any) -> str | int:
    return value if isinstance(value, int) else str(value)
