"""The tags that name the partitions of a run. This module does not import Dagster, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping

from ecommersss_platform.days import Days

PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"


def range_tags(days: Days) -> dict[str, str]:
    """Return the tags that make one run materialise these days, both ends included, as the UI does."""
    if len(days) == 1:
        return {PARTITION_TAG: days.first.isoformat()}
    return {RANGE_START_TAG: days.first.isoformat(), RANGE_END_TAG: days.last.isoformat()}


def partitions_text(tags: Mapping[str, str]) -> str:
    """Return the days or hours that the tags of a run name; empty for a run without partitions."""
    first, last = tags.get(RANGE_START_TAG), tags.get(RANGE_END_TAG)
    if first and last and first != last:
        return f"{first} to {last}"
    return first or tags.get(PARTITION_TAG) or ""
