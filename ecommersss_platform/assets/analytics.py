"""Analytics: dbt's models as assets, in three steps that follow from how the models are materialised.

Bronze and the dimensions have no partitions and come first. The incremental models are partitioned by
business day: a run replaces all its days in one go. The marts are built once after them. dbt's tests are
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

from ecommersss_platform.dbt.lock import dbt_lock
from ecommersss_platform.dbt.project import MANIFEST, DbtError, build_arguments
from ecommersss_platform.dbt.resource import keep_parse, metadata_from_event
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse, WarehouseError

INCREMENTAL = "config.materialized:incremental"


def analytics_assets(
    partitions_def: PartitionsDefinition, pool: str | None, manifest: Path = MANIFEST
) -> list[AssetsDefinition]:
    """Return the assets of the dbt project; their keys are [dataset, model].

    They need the resources `dbt`, `postgres` and `warehouse`. `partitions_def`: the business days, the same
    as those of the raw tables. `pool`: `Warehouse.pool`. Raises `DbtError` if the manifest does not exist.
    """
    if not manifest.exists():
        raise DbtError(f"dbt's manifest {manifest} is missing: run `make setup`")
    return [
        dbt_assets(
            manifest=manifest,
            name="bronze_and_dimensions",
            select="staging core",
            exclude=INCREMENTAL,
            pool=pool,
        )(build),
        dbt_assets(
            manifest=manifest,
            name="incremental_models",
            select=INCREMENTAL,
            partitions_def=partitions_def,
            backfill_policy=SINGLE_RUN,
            pool=pool,
        )(build),
        dbt_assets(manifest=manifest, name="marts", select="marts", pool=pool)(build),
    ]


def build(
    context: AssetExecutionContext,
    dbt: DbtCliResource,
    postgres: PostgresResource,
    warehouse: ResourceParam[Warehouse],
) -> Iterator[Any]:
    """Run dbt for the selected assets, and yield each result as soon as dbt reports it.

    If the warehouse refuses access, the step fails with the warehouse's own message before dbt starts.
    """
    # In a run over days, the assets without partitions see its days too; they are not about days.
    partitioned = context.assets_def.partitions_def is not None
    days = Days.of_keys(context.partition_key_range) if partitioned else None
    try:
        warehouse.check_access()
    except WarehouseError as error:
        raise Failure(str(error)) from None
    with dbt_lock(warehouse, postgres, context.log):
        yield from _run_dbt(context, dbt, days)


def _run_dbt(context: AssetExecutionContext, dbt: DbtCliResource, days: Days | None) -> Iterator[Any]:
    # dagster-dbt calls methods that are deprecated on the asset context, but not on the op context below it.
    op_context = context.op_execution_context
    invocation = dbt.cli(build_arguments(days), context=op_context)
    metadata_by_node: dict[str, dict[str, Any]] = {}
    unreported = set(op_context.selected_asset_keys)
    for event in invocation.stream_raw_events():
        if reported := metadata_from_event(event.raw_event):
            metadata_by_node.update([reported])
            continue
        if event.raw_event["info"]["name"] == "AdapterEventWarning":  # such as for whom dbt waits
            context.log.warning(event.raw_event["info"]["msg"])
        for result in event.to_default_asset_events(
            manifest=invocation.manifest,
            dagster_dbt_translator=invocation.dagster_dbt_translator,
            context=op_context,
            target_path=invocation.target_path,
        ):
            if isinstance(result, Output):
                unreported.discard(op_context.asset_key_for_output(result.output_name))
                node = str(result.metadata["unique_id"].value)
                more = table_metadata(metadata_by_node.get(node, {}), days)
                yield result.with_metadata({**result.metadata, **more})
            else:
                yield result
    if unreported:
        names = ", ".join(sorted(key.to_user_string() for key in unreported))
        raise Failure(f"dbt ended without an error, but did not report {names}: its tables may be old")
    if days is None:
        keep_parse(invocation)


def table_metadata(reported: Mapping[str, Any], days: Days | None) -> dict[str, Any]:
    """Return what dbt reported about a table, for a run over these days.

    In a run over a single day, the rows of the window are those of the partition.
    """
    metadata = dict(reported)
    if days is not None and len(days) == 1 and "rows_in_window" in metadata:
        metadata["dagster/partition_row_count"] = metadata.pop("rows_in_window")
    return metadata
