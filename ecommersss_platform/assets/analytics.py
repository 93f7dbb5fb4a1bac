"""Analytics: dbt's models as assets, in three steps that follow from how they are materialised.

Bronze and the dimensions have no partitions and are made first; `fact_orders` is partitioned by business day
and replaces the days of its run, however many, in one go; the marts are made once after it. dbt's tests are
asset checks, and those of severity error block what comes after.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    Failure,
    Output,
    PartitionsDefinition,
    ResourceParam,
)
from dagster_dbt import DbtCliResource, dbt_assets

from ecommersss_platform.dbt.project import MANIFEST, DbtError, build_arguments
from ecommersss_platform.dbt.resource import keep_parse, told_metadata
from ecommersss_platform.dbt.turn import dbt_turn
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse, WarehouseError

INCREMENTAL = "config.materialized:incremental"


def analytics_assets(
    partitions_def: PartitionsDefinition, pool: str | None, manifest: Path = MANIFEST
) -> list[AssetsDefinition]:
    """The assets of the dbt project; their keys are [dataset, model]. They need the resources
    `dbt`, `postgres` and `warehouse`.

    `partitions_def`: the business days that the raw tables have too. `pool`: the warehouse's
    (`Warehouse.pool`). Raises `DbtError` when the manifest was not prepared.
    """
    if not manifest.exists():
        raise DbtError(f"dbt's manifest {manifest} is missing: run `make setup`")

    @dbt_assets(
        manifest=manifest,
        name="bronze_and_dimensions",
        select="staging core",
        exclude=INCREMENTAL,
        pool=pool,
    )
    def bronze_and_dimensions(
        context: AssetExecutionContext,
        dbt: DbtCliResource,
        postgres: PostgresResource,
        warehouse: ResourceParam[Warehouse],
    ) -> Iterator[Any]:
        yield from _build(context, dbt, postgres, warehouse, None)

    @dbt_assets(
        manifest=manifest,
        name="fact_orders",
        select=INCREMENTAL,
        partitions_def=partitions_def,
        backfill_policy=SINGLE_RUN,
        pool=pool,
    )
    def fact_orders(
        context: AssetExecutionContext,
        dbt: DbtCliResource,
        postgres: PostgresResource,
        warehouse: ResourceParam[Warehouse],
    ) -> Iterator[Any]:
        yield from _build(context, dbt, postgres, warehouse, Days.of_window(context.partition_time_window))

    @dbt_assets(manifest=manifest, name="marts", select="marts", pool=pool)
    def marts(
        context: AssetExecutionContext,
        dbt: DbtCliResource,
        postgres: PostgresResource,
        warehouse: ResourceParam[Warehouse],
    ) -> Iterator[Any]:
        yield from _build(context, dbt, postgres, warehouse, None)

    return [bronze_and_dimensions, fact_orders, marts]


def _build(
    context: AssetExecutionContext,
    dbt: DbtCliResource,
    postgres: PostgresResource,
    warehouse: Warehouse,
    days: Days | None,
) -> Iterator[Any]:
    """Run dbt for the selected assets and yield what it did, each as soon as it is done.

    A warehouse that does not let us in fails the step in its own words, before dbt is started.
    """
    try:
        warehouse.check_access()
    except WarehouseError as error:
        raise Failure(str(error)) from None
    with dbt_turn(warehouse, postgres, context.log):
        yield from _built(context, dbt, days)


def _built(context: AssetExecutionContext, dbt: DbtCliResource, days: Days | None) -> Iterator[Any]:
    # dagster-dbt asks the context for what the asset's own deprecates; the op's, under it, has all of it.
    op_context = context.op_execution_context
    invocation = dbt.cli(build_arguments(days), context=op_context)
    told: dict[str, dict[str, Any]] = {}
    for event in invocation.stream_raw_events():
        if metadata := told_metadata(event.raw_event):
            told.update([metadata])
            continue
        for result in event.to_default_asset_events(
            manifest=invocation.manifest,
            dagster_dbt_translator=invocation.dagster_dbt_translator,
            context=op_context,
            target_path=invocation.target_path,
        ):
            if isinstance(result, Output):
                node = str(result.metadata["unique_id"].value)
                yield result.with_metadata({**result.metadata, **table_metadata(told.get(node, {}), days)})
            else:
                yield result
    if days is None:
        keep_parse(invocation)


def table_metadata(told: Mapping[str, Any], days: Days | None) -> dict[str, Any]:
    """What dbt told of a table, for a run over these days: a single day's rows are its partition's."""
    metadata = dict(told)
    if days is not None and len(days) == 1 and "rows_in_window" in metadata:
        metadata["dagster/partition_row_count"] = metadata.pop("rows_in_window")
    return metadata
