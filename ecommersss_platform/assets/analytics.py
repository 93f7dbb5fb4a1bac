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
    MetadataValue,
    Output,
    PartitionsDefinition,
    ResourceParam,
)
from dagster_dbt import dbt_assets

from ecommersss_platform.dbt.lock import dbt_lock
from ecommersss_platform.dbt.project import MANIFEST, DbtError, build_arguments
from ecommersss_platform.dbt.resource import PlatformDbt, metadata_from_event
from ecommersss_platform.partitions import SINGLE_RUN, Days
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.warehouse import Warehouse, WarehouseError

INCREMENTAL = "config.materialized:incremental"
LINKS = ("unique_id", "invocation_id", "job", "job_id")
"""Metadata that names the dbt model, the dbt run, and the service's job."""


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
    dbt: ResourceParam[PlatformDbt],
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


def _run_dbt(context: AssetExecutionContext, dbt: PlatformDbt, days: Days | None) -> Iterator[Any]:
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
                key = op_context.asset_key_for_output(result.output_name)
                unreported.discard(key)
                node = str(result.metadata["unique_id"].value)
                figures = dict(metadata_by_node.get(node, {}))
                rows_per_day = figures.pop("rows_per_day", None)
                result = result.with_metadata({**result.metadata, **figures})
                if days and rows_per_day is not None:
                    for day in days:
                        rows = {"dagster/partition_row_count": rows_per_day.get(str(day), 0)}
                        context.add_asset_metadata(rows, key, str(day))
                if days and len(days) > 1:
                    metadata, totals = split_totals(result.metadata)
                    context.log.info(f"{key.to_user_string()}, {days}: {totals}")
                    result = result.with_metadata(metadata)
                yield result
            else:
                yield result
    if unreported:
        names = ", ".join(sorted(key.to_user_string() for key in unreported))
        raise Failure(f"dbt ended without an error, but did not report {names}: its tables may be old")


def split_totals(metadata: Mapping[str, MetadataValue]) -> tuple[dict[str, MetadataValue], str]:
    """Split the metadata of a run over several days into what describes the table, and the rest as text.

    Each day has an event of its own. What belongs to all of them, such as seconds and jobs, is for the log.
    """
    table = {name: value for name, value in metadata.items() if name.startswith("dagster") or name in LINKS}
    totals = (f"{name} {value.value}" for name, value in metadata.items() if name not in table)
    return table, ", ".join(totals)
