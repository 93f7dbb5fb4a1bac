"""Metadata for the Dagster UI."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import Job, Published
from ecommersss_platform.warehouse.metadata import day_metadata, markdown, run_metadata

DAY = date(2024, 6, 10)
ONE = Days.between(DAY, DAY)


def test_markdown_keeps_values_in_their_cells() -> None:
    assert markdown([]) == "no rows"
    assert markdown([{"a": "x|y\nz", "b": "<b>"}]) == "| a | b |\n| --- | --- |\n| x\\|y z | &lt;b> |"


def test_run_metadata_lists_the_days_of_a_range_up_to_a_month() -> None:
    def listed(days: Days) -> str | None:
        published = Published("raw.orders", days, 2, 1, 0.0, 0.0, dict.fromkeys(days, 0) | {DAY: 2})
        shown = run_metadata(ORDERS, published, ORDERS.arrow_schema.empty_table())
        return shown["rows_per_day"].value if "rows_per_day" in shown else None

    month = listed(Days(DAY, DAY + timedelta(days=31)))
    assert month is not None
    assert month.startswith("| day | rows |\n| --- | --- |\n| 2024-06-10 | 2 |\n| 2024-06-11 | 0 |")
    assert listed(Days(DAY, DAY + timedelta(days=32))) is None
    assert listed(ONE) is None


def test_day_metadata_has_every_status() -> None:
    published = Published("raw.orders", ONE, 3, 1, 0.0, 0.0, {DAY: 3}, {DAY: {"false": 3}}, {DAY: "00ff"})
    assert day_metadata(ORDERS, published, DAY) == {
        "dagster/row_count": 3,
        "dagster/partition_row_count": 3,
        "checksum": "00ff",
        "rows_fraud": 0,
        "rows_genuine": 3,
    }


def test_run_metadata_links_jobs_and_adds_up_their_cost() -> None:
    jobs = (Job("load", "j_1", "https://x/?a=b&c=d", 5_000, None), Job("publish", "j_2", "https://y", 11, 12))
    published = Published("raw.orders", ONE, 0, 0, 0.0, 0.0, jobs=jobs)
    shown = run_metadata(ORDERS, published, ORDERS.arrow_schema.empty_table())
    assert (shown["job_bytes"], shown["job_slot_ms"]) == (5_011, 12)
    assert shown["jobs"].value == (
        "| step | job | bytes | slot_ms |\n| --- | --- | --- | --- |\n"
        "| load | [j_1](https://x/?a=b&c=d) | 5,000 |  |\n| publish | [j_2](https://y) | 11 | 12 |"
    )
    without = run_metadata(ORDERS, replace(published, jobs=()), ORDERS.arrow_schema.empty_table())
    assert [name for name in without if "job" in name] == []
