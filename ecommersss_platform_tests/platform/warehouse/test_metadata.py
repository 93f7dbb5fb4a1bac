"""Metadata for the Dagster UI."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import Job, Published
from ecommersss_platform.warehouse.metadata import (
    billed_metadata,
    day_metadata,
    load_metadata,
    load_text,
    markdown,
    table_metadata,
)

DAY = date(2024, 6, 10)
ONE = Days.between(DAY, DAY)


def test_markdown_keeps_values_in_their_cells() -> None:
    assert markdown([]) == "no rows"
    assert markdown([{"a": "x|y\nz", "b": "<b>"}]) == "| a | b |\n| --- | --- |\n| x\\|y z | &lt;b> |"


def test_markdown_has_separators_in_decimals_and_none_in_ids() -> None:
    rows = [{"id": 18910500, "amount": Decimal("18910500.00")}]
    assert markdown(rows).splitlines()[-1] == "| 18910500 | 18,910,500.00 |"


def test_log_of_a_range_has_its_totals_and_jobs() -> None:
    days = Days.between(DAY, date(2024, 6, 12))
    jobs = (Job("load", "j_1", "https://x/?a=b", 5_000, None),)
    assert load_text(Published("raw.orders", days, 1_200, 34_567, 0.5, 0.25, jobs=jobs)) == (
        "raw.orders, 2024-06-10 to 2024-06-12: 1,200 rows, 34,567 bytes;"
        " extracted and staged in 0.500 s, published in 0.250 s\n"
        "load: https://x/?a=b (bytes 5000, slot ms None)"
    )


def test_table_metadata_has_the_rows_of_the_whole_table_if_they_are_known() -> None:
    published = Published("raw.orders", ONE, 3, 1, 0.0, 0.0, table_rows=40)
    assert table_metadata(ORDERS, published)["dagster/row_count"] == 40
    assert "dagster/row_count" not in table_metadata(ORDERS, replace(published, table_rows=None))


def test_day_metadata_has_every_status() -> None:
    published = Published("raw.orders", ONE, 3, 1, 0.0, 0.0, {DAY: 3}, {DAY: {"false": 3}}, {DAY: "00ff"})
    assert day_metadata(ORDERS, published, DAY) == {
        "dagster/partition_row_count": 3,
        "checksum": "00ff",
        "rows_fraud": 0,
        "rows_genuine": 3,
        "fraud_percentage": 0.0,
    }


def test_bytes_billed_for_a_range_are_shared_by_its_days() -> None:
    jobs = (Job("audit", "j", "https://x", 1, 1, billed=10_000_000), Job("load", "k", "https://y", 5, None))
    three = Days.between(DAY, date(2024, 6, 12))
    of_a_range = Published("raw.orders", three, 1, 1, 0.0, 0.0, jobs=jobs)
    assert billed_metadata(of_a_range) == {"job_bytes_billed": 3_333_333}
    assert billed_metadata(replace(of_a_range, days=None)) == {"job_bytes_billed": 10_000_000}
    assert billed_metadata(replace(of_a_range, jobs=())) == {}


def test_load_metadata_links_jobs_and_adds_up_their_cost() -> None:
    jobs = (Job("load", "j_1", "https://x/?a=b&c=d", 5_000, None), Job("publish", "j_2", "https://y", 11, 12))
    published = Published("raw.orders", ONE, 0, 0, 0.0, 0.0, jobs=jobs)
    shown = load_metadata(ORDERS, published, ORDERS.arrow_schema.empty_table())
    assert (shown["job_bytes"], shown["job_slot_ms"]) == (5_011, 12)
    assert shown["jobs"].value == (
        "| step | job | bytes | slot_ms |\n| --- | --- | --- | --- |\n"
        "| load | [j_1](https://x/?a=b&c=d) | 5,000 |  |\n| publish | [j_2](https://y) | 11 | 12 |"
    )
    without = load_metadata(ORDERS, replace(published, jobs=()), ORDERS.arrow_schema.empty_table())
    assert [name for name in without if "job" in name] == []
