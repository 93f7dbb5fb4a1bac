"""The daily job, which schedules, the stream sensor, the UI and `ecommersss materialize` run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagster import (
    AssetChecksDefinition,
    AssetsDefinition,
    AssetSelection,
    Backoff,
    Jitter,
    RetryPolicy,
    define_asset_job,
    in_process_executor,
)

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

DAILY_PIPELINE = "daily_pipeline"

# One process per run. Dagster's default, one per step, would pay for the imports (about 4 s) in every step.
EXECUTOR = in_process_executor

# For a server that restarts or a warehouse that is busy. Every step that uses it may safely run twice.
RETRY = RetryPolicy(max_retries=3, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)


def daily_pipeline(
    assets: Sequence[AssetsDefinition], without: Sequence[AssetChecksDefinition] = ()
) -> UnresolvedAssetJobDefinition:
    """Return the job that materialises days from the raw tables to the marts and the block list.

    A range of days is one run, and so is a backfill of the job: the partitioned assets share one partitions
    definition and one backfill policy (`partitions.SINGLE_RUN`). The unpartitioned ones (bronze, dimensions,
    marts, block list) are built once in the run, in lineage order. "Materialize all" on the lineage page
    backfills assets instead of this job, which takes one run for each stretch of the lineage that is
    partitioned or not.

    The run executes all checks of the assets but those `without`.
    """
    selection: AssetSelection = AssetSelection.assets(*assets)
    if without:
        selection -= AssetSelection.checks(*without)
    return define_asset_job(
        DAILY_PIPELINE,
        selection=selection,
        executor_def=EXECUTOR,
        description="Raw tables, silver, gold and the block list for a day or a range of days, in one run."
        " Choose the days here: *Materialize all* on the lineage page takes several runs in turn.",
    )
