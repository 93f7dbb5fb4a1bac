"""The daily grain: business days of Asia/Jakarta, always as half-open ranges."""

from __future__ import annotations

from datetime import date

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    AssetKey,
    BackfillPolicy,
    DailyPartitionsDefinition,
    PartitionKeyRange,
)

from ecommersss_platform.days import DAY, Days, contiguous
from streaming.business_days import JAKARTA

__all__ = ["DAY", "SINGLE_RUN", "Days", "contiguous", "daily_partitions", "days_to_check"]

# Every partitioned asset shares this policy, so that a backfill of any range is one run.
SINGLE_RUN = BackfillPolicy.single_run()


def daily_partitions(first_day: date) -> DailyPartitionsDefinition:
    """Return the business days from `first_day` on. Today is included: its partition grows all day."""
    return DailyPartitionsDefinition(start_date=first_day.isoformat(), timezone=str(JAKARTA), end_offset=1)


def days_to_check(context: AssetCheckExecutionContext | AssetExecutionContext, key: AssetKey) -> Days | None:
    """Return the days of the run. For an unpartitioned run, the newest materialised day, if any."""
    if context.has_partition_key or context.has_partition_key_range:
        return Days.of_keys(context.partition_key_range)
    newest = max(context.instance.get_materialized_partitions(key), default=None)
    return None if newest is None else Days.of_keys(PartitionKeyRange(newest, newest))
