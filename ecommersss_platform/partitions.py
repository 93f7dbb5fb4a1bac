"""The daily grain: business days of Asia/Jakarta, always as half-open ranges."""

from __future__ import annotations

from datetime import date

from dagster import BackfillPolicy, DailyPartitionsDefinition

from ecommersss_platform.days import DAY, Days, contiguous
from streaming.business_days import JAKARTA

__all__ = ["DAY", "SINGLE_RUN", "Days", "contiguous", "daily_partitions"]

# Every partitioned asset shares this policy, so that a backfill of any range is one run.
SINGLE_RUN = BackfillPolicy.single_run()


def daily_partitions(first_day: date) -> DailyPartitionsDefinition:
    """Return the business days from `first_day` on. Today is included: its partition grows all day."""
    return DailyPartitionsDefinition(start_date=first_day.isoformat(), timezone=str(JAKARTA), end_offset=1)
