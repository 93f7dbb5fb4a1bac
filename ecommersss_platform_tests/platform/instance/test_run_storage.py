"""The tag that names the days of a run. How runs are shown is tested in `platform/test_runs.py`."""

from __future__ import annotations

from datetime import date

from ecommersss_platform.instance.run_storage import days_tag
from ecommersss_platform.partitions import Days
from ecommersss_platform.run_tags import range_tags


def test_range_of_days_is_named_in_one_tag() -> None:
    days = Days.between(date(2026, 1, 1), date(2026, 1, 7))
    assert days_tag(range_tags(days)) == {"days": "2026-01-01..2026-01-07"}


def test_single_day_is_dagsters_own_partition_tag() -> None:
    tags = range_tags(Days.between(date(2026, 1, 1), date(2026, 1, 1)))
    assert tags == {"dagster/partition": "2026-01-01"}
    assert days_tag(tags) == {}


def test_range_that_dagster_makes_of_one_day_is_named_by_the_day() -> None:
    # A backfill of the job tags its run like this.
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    assert days_tag(dict.fromkeys(ends, "2026-01-01")) == {"days": "2026-01-01"}
