"""Raw: the days of every table in `RAW_TABLES`, copied from PostgreSQL into the warehouse.

An asset only says which rows to read; the IO manager stages, audits and publishes them.
"""

# Annotations must be real here: Dagster inspects those of `context` and the resources.
import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DailyPartitionsDefinition,
    Failure,
    ResourceParam,
    asset,
)

from ecommersss_platform import contracts
from ecommersss_platform.assets.sources import upstream_of
from ecommersss_platform.code_links import code_references
from ecommersss_platform.contracts import RAW_TABLES, RawTable
from ecommersss_platform.instance.home import pseudonym_key
from ecommersss_platform.jobs import DAILY_PIPELINE, RETRY
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.postgres.source_schema import COLUMNS_SCHEMA, check_source, columns_sql
from ecommersss_platform.pseudonyms import add_keyed_hashes
from ecommersss_platform.reconciliation import incomplete_days
from ecommersss_platform.resources import WAREHOUSE_IO_MANAGER
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import SchemaError, Warehouse
from ecommersss_platform.warehouse.metadata import column_schema
from ecommersss_platform.warehouse.names import full_name
from streaming.business_days import business_day

GROUP = "raw"
LAST = {"dagster/priority": "-1"}
"""Loads a table after the orders of the same run, so that it has all that they were decided with."""
ONE_RUN = f"To load days and all that follows from them in one run, use the job `{DAILY_PIPELINE}`."


def raw_assets(
    partitions_def: DailyPartitionsDefinition, pool: str | None, tables: Sequence[RawTable] = RAW_TABLES
) -> list[AssetsDefinition]:
    """Return one asset for each raw table, partitioned by these days. `pool` is `Warehouse.pool`."""
    return [_raw_asset(table, partitions_def, pool) for table in tables]


def _raw_asset(
    table: RawTable, partitions_def: DailyPartitionsDefinition, pool: str | None
) -> AssetsDefinition:
    def rows(context: AssetExecutionContext, postgres: PostgresResource) -> pa.RecordBatchReader:
        return extract(table, Days.of_keys(context.partition_key_range), postgres)

    def rows_after_others(
        context: AssetExecutionContext, postgres: PostgresResource, warehouse: ResourceParam[Warehouse]
    ) -> pa.RecordBatchReader:
        days = Days.of_keys(context.partition_key_range)
        if others := catch_up(table, days, postgres, warehouse, context.run.run_id):
            context.log.info(f"{full_name(table)}: also loaded {others}, of which rows were missing")
        return extract(table, days, postgres)

    function: Callable[..., pa.RecordBatchReader] = rows_after_others if table.catches_up else rows
    return asset(
        key=table.path,
        description=f"{table.description} Grain: one row per {', '.join(table.key)}. {ONE_RUN}",
        deps=upstream_of(table),
        partitions_def=partitions_def,
        backfill_policy=SINGLE_RUN,
        pool=pool,
        group_name=GROUP,
        owners=["team:data-engineering"],
        kinds={"postgres", "table"},
        code_version=contract_version(table),
        io_manager_key=WAREHOUSE_IO_MANAGER,
        retry_policy=RETRY,
        metadata={
            "dagster/table_name": full_name(table),
            "dagster/column_schema": column_schema(table),
            **code_references(Path(__file__), Path(contracts.__file__)),
        },
        op_tags=LAST if table.catches_up else None,
    )(function)


def catch_up(
    table: RawTable, days: Days, postgres: PostgresResource, warehouse: Warehouse, run_id: str
) -> Days | None:
    """Load the other days of which the warehouse lacks rows of the table, and those between them, at once."""
    missing = incomplete_days(table, business_day(datetime.now(UTC)), postgres, warehouse)
    if not (others := [day for day in missing if day not in days]):
        return None
    span = Days.between(others[0], others[-1])
    warehouse.publish(table, extract(table, span, postgres), span, run_id)
    return span


def contract_version(table: RawTable) -> str:
    """Return the version of what a load copies: another one if the source or the columns change."""
    columns = [(c.name, c.type.name, c.nullable, c.keyed_hash_of) for c in table.columns]
    text = f"{table.source} {table.instant} {table.key} {columns}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def extract(table: RawTable, days: Days, postgres: PostgresResource) -> pa.RecordBatchReader:
    """Return the table's rows of these days as a stream, which reads PostgreSQL as it is consumed.

    Raises `Failure`, without retries, if PostgreSQL's table lacks columns of the contract.
    """
    sql, params = columns_sql(table)
    columns = postgres.stream(sql, params, COLUMNS_SCHEMA).read_all()
    try:
        check_source(table, dict(zip(*columns.to_pydict().values(), strict=True)))
    except SchemaError as error:
        raise Failure(str(error), allow_retries=False) from error
    sql, params = table.select(days)
    rows = postgres.stream(sql, params, table.source_schema)
    if table.source_columns == table.columns:
        return rows
    return add_keyed_hashes(rows, table, pseudonym_key(Settings()))
