"""Analytics: dbt's models as assets, built by one invocation of dbt in each run.

Bronze, the dimensions and the marts have no partitions. The incremental models are partitioned by business
day: a run stages its days, tests them, and replaces them in one go if no test of severity error fails. dbt's
tests are asset checks. What depends on a model with a failed test of severity error is not built.

A run of the daily job that loaded the same rows as before ends here if all is up to date: `dbt/unchanged.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSelection,
    Config,
    Failure,
    MaterializeResult,
    PartitionsDefinition,
    ResourceParam,
    multi_asset,
)
from pydantic import Field

from ecommersss_platform.assets.unchanged import State, look
from ecommersss_platform.dbt.lineage import read_lineage
from ecommersss_platform.dbt.lock import dbt_lock
from ecommersss_platform.dbt.outcome import Outcome
from ecommersss_platform.dbt.project import DOCS_PAGE, MANIFEST, DbtError, build_arguments, parsed_name
from ecommersss_platform.dbt.resource import PlatformDbt
from ecommersss_platform.dbt.results import (
    BILLED,
    add_costs,
    bytes_billed,
    check_result,
    is_built,
    is_tested,
    metadata_from_event,
    node_of,
    result_metadata,
)
from ecommersss_platform.dbt.specs import UNIQUE_ID, model_specs, test_specs
from ecommersss_platform.dbt.staged import SUFFIX, read_manifest, selection
from ecommersss_platform.dbt.unchanged import BUILT_FROM, BuiltFrom, Reads, Target
from ecommersss_platform.instance.files import file_address
from ecommersss_platform.jobs import DAILY_PIPELINE
from ecommersss_platform.partitions import SINGLE_RUN, Days, days_to_check
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reasons import reason_metadata
from ecommersss_platform.usage import UsageLog
from ecommersss_platform.warehouse import Warehouse, WarehouseError

LINKS = ("unique_id", "invocation_id", "job", "job_id")
"""Metadata that names the dbt model, the dbt run, and the service's job."""


class DbtBuild(Config):
    """What a run builds besides what has changed, as the launchpad offers it."""

    rebuild: bool = Field(
        default=False,
        description="Build every table of the run, even if no raw row and no code has changed since it was"
        " last built. `ecommersss materialize --rebuild` does the same.",
    )
    full_refresh: bool = Field(
        default=False,
        description="Build the tables that are replaced by day, such as fact_orders, for all days in raw, and"
        " not only for the days of the run. All days are tested before any is replaced.",
    )


def analytics_assets(
    partitions_def: PartitionsDefinition, pool: str | None, manifest: Path = MANIFEST
) -> AssetsDefinition:
    """Return the assets of the dbt project; their keys are [dataset, model].

    They need the resources `dbt`, `postgres` and `warehouse`. `partitions_def`: the business days, the same
    as those of the raw tables. `pool`: `Warehouse.pool`. Raises `DbtError` if the manifest does not exist.
    """
    if not manifest.exists():
        raise DbtError(f"dbt's manifest {manifest} is missing: run `make setup`")
    models = read_manifest(manifest)
    reads = Reads.of(models)
    docs = file_address("dbt", DOCS_PAGE.name) if DOCS_PAGE.exists() else None

    @multi_asset(
        name="dbt_models",
        specs=model_specs(models, partitions_def, read_lineage(manifest), docs),
        check_specs=test_specs(models),
        can_subset=True,
        backfill_policy=SINGLE_RUN,
        pool=pool,
    )
    def dbt_models(
        context: AssetExecutionContext,
        config: DbtBuild,
        dbt: ResourceParam[PlatformDbt],
        postgres: PostgresResource,
        warehouse: ResourceParam[Warehouse],
    ) -> Iterator[Any]:
        try:
            sign_in = warehouse.check_access()
        except WarehouseError as error:
            raise Failure(str(error)) from None
        with dbt_lock(warehouse, postgres, context.log):
            before = State()
            if context.job_name == DAILY_PIPELINE:
                asked = config.rebuild or config.full_refresh
                code = parsed_name(dbt.settings)
                before = look(context, warehouse, code, reads, _targets(context), asked=asked)
                if before.why_build is None:
                    yield from before.observations(context.run.tags)
                    return
                context.log.info(f"dbt builds, because {before.why_build}")
            yield from build(context, dbt, sign_in, before.now, full_refresh=config.full_refresh)

    return dbt_models


def labelled_assets(assets: Sequence[AssetsDefinition]) -> list[AssetKey]:
    """Return the labels of orders and all that is made of them."""
    labels = AssetSelection.assets(AssetKey(["silver", "order_labels"]))
    return sorted(labels.downstream().resolve(assets))


def _targets(context: AssetExecutionContext) -> list[Target]:
    """Return what the run is to build: each selected table, or each day of it."""
    by_day = {spec.key for spec in context.assets_def.specs if spec.partitions_def is not None}
    days = _days(context, by_day)
    keys = sorted(context.selected_asset_keys)
    return [(key, day) for key in keys for day in ((days or ()) if key in by_day else (None,))]


def build(
    context: AssetExecutionContext,
    dbt: PlatformDbt,
    sign_in: Mapping[str, str],
    now: Mapping[Target, BuiltFrom],
    *,
    full_refresh: bool = False,
) -> Iterator[Any]:
    """Run dbt for the selected assets and checks, and yield each result as soon as dbt reports it.

    `sign_in`: what `Warehouse.check_access` returned. `now`: what is recorded with the results.
    `full_refresh`: build the tables that are replaced by day for every day.
    """
    definition = context.assets_def
    models = {spec.metadata[UNIQUE_ID]: spec.key for spec in definition.specs}
    tests = {spec.metadata[UNIQUE_ID]: spec.key for spec in definition.check_specs}
    by_day = {spec.key for spec in definition.specs if spec.partitions_def is not None}
    days = _days(context, by_day)
    arguments = build_arguments(days, full_refresh=full_refresh) + _selection(context, by_day)
    folder = dbt.new_folder(context.run.run_id)
    reported: dict[str, dict[str, Any]] = {}
    outcome = Outcome(frozenset(key.to_user_string() for key in context.selected_asset_keys))
    names_by_day = {key.to_user_string() for key in by_day}
    try:
        for event in dbt.events(arguments, context.run.run_id, folder, sign_in):
            if metadata := metadata_from_event(event):
                reported.update([metadata])
            elif event["info"]["name"] == "AdapterEventWarning":  # such as for whom dbt waits
                context.log.warning(event["info"]["msg"])
            elif is_built(event) and node_of(event) in models:
                node = node_of(event)
                key = models[node]
                outcome.replaced.add(key.to_user_string())
                figures = add_costs(*(reported.get(name, {}) for name in (node, node + SUFFIX)))
                figures = result_metadata(event) | figures
                yield _materialised(context, key, figures, days if key in by_day else None, now)
            elif is_tested(event) and node_of(event) in tests:
                check = tests[node_of(event)]
                about = {"days": str(days or "every day")} if check.asset_key in by_day else {}
                yield check_result(event, check, about)
            else:
                outcome.note_skip(event)
    except DbtError as error:
        raise Failure(f"{outcome.sentences(days, names_by_day)}\n{error}") from None
    finally:
        if billed := bytes_billed(folder, reported):
            UsageLog(dbt.settings)(billed)
    if not outcome.complete:
        raise Failure(
            "dbt ended without an error, but did not report every table. "
            + outcome.sentences(days, names_by_day)
        )


def _days(context: AssetExecutionContext, by_day: set[AssetKey]) -> Days | None:
    """Return the days of the run if the step is about any, else None.

    If only checks of the partitioned assets are asked for, without days, these are about the newest day.
    """
    if by_day & context.selected_asset_keys:
        return Days.of_keys(context.partition_key_range)
    checked = by_day & {check.asset_key for check in context.selected_asset_check_keys}
    return days_to_check(context, min(checked)) if checked else None


def _selection(context: AssetExecutionContext, by_day: set[AssetKey]) -> list[str]:
    """Return dbt's arguments that select what the step is to make; none if that is everything.

    What is published by day is staged and tested as a whole, whichever checks are selected.
    """
    definition = context.assets_def
    all_checks = {spec.key for spec in definition.node_check_specs_by_output_name.values()}
    keys, checks = context.selected_asset_keys, context.selected_asset_check_keys
    if keys == set(definition.node_keys_by_output_name.values()) and checks == all_checks:
        return []
    staged = by_day & (keys | {check.asset_key for check in checks})
    tested = checks | {check for check in all_checks if check.asset_key in keys & by_day}
    return selection(
        (key.path[-1] for key in keys), (key.path[-1] for key in staged), (check.name for check in tested)
    )


def _materialised(
    context: AssetExecutionContext,
    key: AssetKey,
    metadata: dict[str, Any],
    days: Days | None,
    now: Mapping[Target, BuiltFrom],
) -> MaterializeResult[Any]:
    """Return the result of a model that was built, for these days if it is partitioned."""
    for day in days or (None,):
        if (key, day) in now:
            context.add_asset_metadata({BUILT_FROM: str(now[key, day])}, key, str(day) if day else None)
    rows_per_day = metadata.pop("rows_per_day", None)
    # The days of a run are billed together: each has an equal share, so that a plot adds up.
    billed = {BILLED: metadata.pop(BILLED) // len(days)} if days and BILLED in metadata else {}
    if days and rows_per_day is not None:
        for day in days:
            rows = {"dagster/partition_row_count": rows_per_day.get(str(day), 0)}
            context.add_asset_metadata(rows | billed, key, str(day))
    reason = reason_metadata(context.run.tags)
    if days and len(days) > 1:
        metadata.pop("preview", None)  # of no day in particular
        metadata, totals = split_totals(metadata)
        context.log.info(f"{key.to_user_string()}, {days}: {totals}")
    return MaterializeResult(asset_key=key, metadata={**metadata, **reason})


def split_totals(metadata: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Split the metadata of a run over several days into what describes the table, and the rest as text.

    Each day has an event of its own. What belongs to all of them, such as seconds and jobs, is for the log.
    """
    table = {name: value for name, value in metadata.items() if name.startswith("dagster") or name in LINKS}
    totals = (f"{name} {value}" for name, value in metadata.items() if name not in table)
    return table, ", ".join(totals)
