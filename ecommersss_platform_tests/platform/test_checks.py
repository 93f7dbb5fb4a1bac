"""What the reconciliations decide: the days to compare, and totals that differ."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import PartitionKeyRange

from ecommersss_platform.checks import FACTS
from ecommersss_platform.contracts import PARTITION_COLUMN, RAW_TABLES, RawTable, Type
from ecommersss_platform.partitions import Days, days_to_check
from ecommersss_platform.reconciliation import Total, differences

DAY = date(2024, 6, 10)


@pytest.mark.parametrize("table", RAW_TABLES, ids=lambda table: table.name)
def test_every_raw_table_can_be_reconciled(table: RawTable) -> None:
    types = {column.name: column.type for column in table.columns}
    assert types[table.high_water] == Type.INT64
    assert {*table.key, *table.clustering, PARTITION_COLUMN} <= set(types)
    assert table.status is None or table.status in types


def context(materialized: set[str], keys: PartitionKeyRange | None = None) -> Any:
    return SimpleNamespace(
        has_partition_key=False,
        has_partition_key_range=keys is not None,
        partition_key_range=keys,
        instance=SimpleNamespace(get_materialized_partitions=lambda _: materialized),
    )


def test_a_run_checks_its_own_days_else_the_newest() -> None:
    asked = context({"2024-06-12"}, PartitionKeyRange("2024-06-08", "2024-06-10"))
    assert days_to_check(asked, FACTS) == Days.between(date(2024, 6, 8), DAY)
    assert days_to_check(context({"2024-06-08", "2024-06-10"}), FACTS) == Days.between(DAY, DAY)
    assert days_to_check(context(set()), FACTS) is None


def test_totals_that_differ_are_named_by_day() -> None:
    other = date(2024, 6, 11)
    same = {DAY: Total(2, Decimal("3.50"))}
    assert differences(same, {DAY: Total(2, Decimal("3.5"))}) == []
    assert differences(same, {other: Total(1)}) == [
        "2024-06-10: PostgreSQL has 2 rows, 3.50 rupiah, the warehouse 0 rows",
        "2024-06-11: PostgreSQL has 0 rows, the warehouse 1 rows",
    ]
