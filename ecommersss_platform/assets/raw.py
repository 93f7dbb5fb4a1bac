"""Raw: the days of users, products and orders, copied from PostgreSQL into the warehouse.

Each asset only says which rows; the IO manager stages, audits and publishes them.
"""

# Annotations must be real here: Dagster judges `context` and the resources by them.
from collections.abc import Callable
from datetime import date
from typing import Any

import pyarrow as pa
from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Backoff,
    DailyPartitionsDefinition,
    Failure,
    Jitter,
    RetryPolicy,
    asset,
)

from ecommersss_platform.contracts import ORDERS, PRODUCTS, USERS, RawTable
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.postgres.source_schema import COLUMNS_SCHEMA, check_source, columns_sql
from ecommersss_platform.resources import WAREHOUSE_IO_MANAGER
from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.metadata import column_schema
from ecommersss_platform.warehouse.names import full_name

GROUP = "raw"

# For a server that restarts or a warehouse that is busy. Rows that fail their audit are not tried again.
RETRY = RetryPolicy(max_retries=3, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)


def raw_assets(partitions_def: DailyPartitionsDefinition, pool: str | None) -> list[AssetsDefinition]:
    """The raw assets over these days. `pool` is the warehouse's (`Warehouse.pool`)."""

    def raw_asset(table: RawTable) -> Callable[[Callable[..., Any]], AssetsDefinition]:
        return asset(
            key=[table.dataset, table.name],
            description=table.description,
            partitions_def=partitions_def,
            backfill_policy=SINGLE_RUN,
            pool=pool,
            group_name=GROUP,
            kinds={"postgres", "table"},
            io_manager_key=WAREHOUSE_IO_MANAGER,
            retry_policy=RETRY,
            metadata={
                "dagster/table_name": full_name(table),
                "dagster/column_schema": column_schema(table),
            },
        )

    @raw_asset(USERS)
    def users(context: AssetExecutionContext, postgres: PostgresResource) -> pa.RecordBatchReader:
        return extract(USERS, asked_days(context), postgres)

    @raw_asset(PRODUCTS)
    def products(context: AssetExecutionContext, postgres: PostgresResource) -> pa.RecordBatchReader:
        return extract(PRODUCTS, asked_days(context), postgres)

    @raw_asset(ORDERS)
    def orders(context: AssetExecutionContext, postgres: PostgresResource) -> pa.RecordBatchReader:
        return extract(ORDERS, asked_days(context), postgres)

    return [users, products, orders]


def extract(table: RawTable, days: Days, postgres: PostgresResource) -> pa.RecordBatchReader:
    """The table's rows of these days, as a stream that reads PostgreSQL when it is read.

    Raises Failure, which no retry follows, when PostgreSQL's table has not the columns of the contract.
    """
    sql, params = columns_sql(table)
    columns = postgres.stream(sql, params, COLUMNS_SCHEMA).read_all()
    try:
        check_source(table, dict(zip(*columns.to_pydict().values(), strict=True)))
    except SchemaError as error:
        raise Failure(str(error), allow_retries=False) from error
    sql, params = table.select(days)
    return postgres.stream(sql, params, table.arrow_schema)


def asked_days(context: AssetExecutionContext) -> Days:
    """The days that this run is to materialise; one, or a range."""
    keys = context.partition_key_range
    return Days.between(date.fromisoformat(keys.start), date.fromisoformat(keys.end))
