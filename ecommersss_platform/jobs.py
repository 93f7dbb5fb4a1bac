"""Jobs: what is run together, by schedules, sensors, the UI and `ecommersss materialize`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagster import (
    AssetsDefinition,
    AssetSelection,
    define_asset_job,
    in_process_executor,
)

from ecommersss_platform.partitions import Days

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

MARKETPLACE_DAYS = "marketplace_days"

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

# One process a run: a process a step, Dagster's default, pays the imports (about 4 s) for each of them.
EXECUTOR = in_process_executor


def range_tags(days: Days) -> dict[str, str]:
    """The tags that make one run materialise these days, as the UI sets them; both ends are included."""
    return {RANGE_START_TAG: days.first.isoformat(), RANGE_END_TAG: days.last.isoformat()}


def marketplace_days(assets: Sequence[AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """Days, from the raw tables to the marts and the block list. A range is one run, and so is a backfill.

    The partitioned assets share one partitions definition and one backfill policy
    (`partitions.SINGLE_RUN`); the others (bronze, dimensions, marts, block list) are made once in the run, in
    the order of the lineage. A backfill of *assets* instead of this job takes a run for each change between
    partitioned and not, still one each.
    """
    return define_asset_job(
        MARKETPLACE_DAYS,
        selection=AssetSelection.assets(*assets),
        executor_def=EXECUTOR,
        description="Raw tables, silver, gold and the block list of a day or a range of days, in one run.",
    )
