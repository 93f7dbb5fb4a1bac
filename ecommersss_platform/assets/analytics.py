"""Analytics: dbt's models as assets, in three steps that follow from how the models are materialised.

Bronze and the dimensions have no partitions and come first. The incremental models are partitioned by
business day: a run stages its days, tests them, and replaces them in one go if no test of severity error
fails. The marts are built once after them. dbt's tests are asset checks, and those of severity error block
what comes after.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    Failure,
    MetadataValue,
    OpExecutionContext,
    Output,
    PartitionsDefinition,
    ResourceParam,
)
from dagster_dbt import dbt_assets

from ecommersss_platform.dbt.lock import dbt_lock
from ecommersss_platform.dbt.outcome import Outcome
from ecommersss_platform.dbt.project import MANIFEST, DbtError, build_arguments
from ecommersss_platform.dbt.resource import (
    BILLED,
    PlatformDbt,
    add_costs,
    bytes_billed,
    metadata_from_event,
)
from ecommersss_platform.dbt.staged import SUFFIX, read_manifest, staged_selection
from ecommersss_platform.partitions import SINGLE_RUN, Days, days_to_check
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.usage import UsageLog
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
    models = read_manifest(manifest)
    return [
        dbt_assets(
            manifest=models,
            name="bronze_and_dimensions",
            select="staging core",
            exclude=f"{INCREMENTAL} *{SUFFIX}",
            pool=pool,
        )(build),
        dbt_assets(
            manifest=models,
            name="incremental_models",
            select=INCREMENTAL,
            partitions_def=partitions_def,
            backfill_policy=SINGLE_RUN,
            pool=pool,
        )(build),
        dbt_assets(manifest=models, name="marts", select="marts", pool=pool)(build),
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
    try:
        sign_in = warehouse.check_access()
    except WarehouseError as error:
        raise Failure(str(error)) from None
    with dbt_lock(warehouse, postgres, context.log):
        yield from _run_dbt(context, dbt, sign_in)


def _incremental(context: OpExecutionContext) -> set[AssetKey]:
    """Return the incremental models that the step builds or checks. Only these are about the run's days."""
    keys = {*context.selected_asset_keys, *(check.asset_key for check in context.selected_asset_check_keys)}
    metadata = context.assets_def.metadata_by_key
    return {key for key in keys if metadata[key].get("dagster-dbt/materialization_type") == "incremental"}


def _run_dbt(context: AssetExecutionContext, dbt: PlatformDbt, sign_in: Mapping[str, str]) -> Iterator[Any]:
    # dagster-dbt calls methods that are deprecated on the asset context, but not on the op context below it.
    op_context = context.op_execution_context
    incremental = _incremental(op_context)
    days = None
    if incremental & op_context.selected_asset_keys:
        days = Days.of_keys(context.partition_key_range)
    elif incremental:  # their checks alone
        days = days_to_check(context, min(incremental))
    arguments = build_arguments(days)
    if incremental:
        arguments += staged_selection(key.path[-1] for key in incremental)
    invocation = dbt.cli(arguments, context=op_context, sign_in=sign_in)
    metadata_by_node: dict[str, dict[str, Any]] = {}
    outcome = Outcome(frozenset(key.to_user_string() for key in op_context.selected_asset_keys))
    try:
        for event in invocation.stream_raw_events():
            if reported := metadata_from_event(event.raw_event):
                metadata_by_node.update([reported])
                continue
            if event.raw_event["info"]["name"] == "AdapterEventWarning":  # such as for whom dbt waits
                context.log.warning(event.raw_event["info"]["msg"])
            outcome.note_skip(event.raw_event)
            node = event.raw_event["data"].get("node_info", {}).get("unique_id", "")
            if node.endswith(SUFFIX):
                continue
            for result in event.to_default_asset_events(
                manifest=invocation.manifest,
                dagster_dbt_translator=invocation.dagster_dbt_translator,
                context=op_context,
                target_path=invocation.target_path,
            ):
                if isinstance(result, Output):
                    key = op_context.asset_key_for_output(result.output_name)
                    outcome.replaced.add(key.to_user_string())
                    figures = add_costs(*(metadata_by_node.get(name, {}) for name in (node, node + SUFFIX)))
                    yield _with_figures(result, context, key, days, figures)
                elif isinstance(result, AssetCheckResult) and result.asset_key in incremental:
                    about = MetadataValue.text(str(days or "every day"))
                    yield result._replace(metadata={**result.metadata, "days": about})
                else:
                    yield result
    except DbtError as error:
        raise Failure(f"{outcome.sentences(days)}\n{error}") from None
    finally:
        if billed := bytes_billed(invocation.target_path, metadata_by_node):
            UsageLog(dbt.settings)(billed)
    if not outcome.complete:
        raise Failure(
            f"dbt ended without an error, but did not report every table. {outcome.sentences(days)}"
        )


def _with_figures(
    result: Output[Any],
    context: AssetExecutionContext,
    key: AssetKey,
    days: Days | None,
    reported: Mapping[str, Any],
) -> Output[Any]:
    """Return the output with what dbt reported about its table, and record the rows of each day."""
    figures = dict(reported)
    rows_per_day = figures.pop("rows_per_day", None)
    # The days of a run are billed together: each has an equal share, so that a plot adds up.
    billed = {BILLED: figures.pop(BILLED) // len(days)} if days and BILLED in figures else {}
    result = result.with_metadata({**result.metadata, **figures})
    if days and rows_per_day is not None:
        for day in days:
            rows = {"dagster/partition_row_count": rows_per_day.get(str(day), 0)}
            context.add_asset_metadata(rows | billed, key, str(day))
    if days and len(days) > 1:
        metadata, totals = split_totals(result.metadata)
        context.log.info(f"{key.to_user_string()}, {days}: {totals}")
        result = result.with_metadata(metadata)
    return result


def split_totals(metadata: Mapping[str, MetadataValue]) -> tuple[dict[str, MetadataValue], str]:
    """Split the metadata of a run over several days into what describes the table, and the rest as text.

    Each day has an event of its own. What belongs to all of them, such as seconds and jobs, is for the log.
    """
    table = {name: value for name, value in metadata.items() if name.startswith("dagster") or name in LINKS}
    totals = (f"{name} {value.value}" for name, value in metadata.items() if name not in table)
    return table, ", ".join(totals)
