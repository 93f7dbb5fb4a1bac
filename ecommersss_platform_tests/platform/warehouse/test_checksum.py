"""Checksums of days: what they depend on, and what they do not."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecommersss_platform.contracts import ORDERS, PARTITION_COLUMN, Type
from ecommersss_platform.warehouse.checksum import Checksums, checksums, row_hashes
from ecommersss_platform_tests.support.orders_table import DAY_1, DAY_2, order, orders

VALUES: dict[Type, list[Any]] = {
    Type.INT64: [0, 1, -1, 2**53 + 1, -(2**63), 2**63 - 1],
    Type.STRING: ["", "a", "a\0", "b", "ID", "DI", "12345678", "123456789", "123456789012345678", "☂" * 40],
    Type.STRINGS: [[], [""], ["", ""], ["a", "b"], ["b", "a"], ["ab"], ["ab", ""], ["a", None]],
    Type.BOOL: [True, False],
    Type.MONEY: [Decimal(text) for text in ("0.00", "0.01", "-0.01", "9999999999999999.99", "1.00")],
    Type.TIMESTAMP: [datetime(1969, 12, 31, tzinfo=UTC), datetime(2024, 6, 10, 0, 0, 0, 1, UTC)],
    Type.DATE: [date(1, 1, 1), date(1970, 1, 1), date(2024, 6, 10)],
    Type.FLOAT64: [0.0, 1.5, -1.5, float("inf")],
}


def of_days(rows: list[dict[str, Any]], batch: int = 1000) -> dict[date, str]:
    table = pa.Table.from_pylist(rows, ORDERS.arrow_schema)
    return dict(checksums(table.to_reader(max_chunksize=batch), [DAY_1, DAY_2]))


def number(kind: Type, value: Any, name: str = "x") -> int:
    [found] = row_hashes(pa.record_batch({name: pa.array([value], kind.value)}))
    return int(found)


def test_checksum_depends_on_rows_not_on_order_or_batches() -> None:
    rows = orders(range(1, 300), DAY_1) + orders(range(300, 310), DAY_2, fraud_reasons=["a", "b"])
    once = of_days(rows)
    assert of_days(random.Random(1).sample(rows, len(rows)), batch=7) == once
    assert of_days(rows[:299]) == {DAY_1: once[DAY_1], DAY_2: "0" * 16}
    assert of_days([*rows, rows[0]])[DAY_1] != once[DAY_1]
    assert of_days(rows[1:])[DAY_1] != once[DAY_1]


def test_checksum_never_changes_between_versions() -> None:
    newer_columns = {"lists_version": None, "review_reasons": None}
    rows = orders([1, 2], DAY_1, fraud_reasons=["extreme_order"], **newer_columns)
    assert of_days(rows)[DAY_1] == "340ab2c6249314f8"


@pytest.mark.parametrize("column", [c.name for c in ORDERS.columns if c.name != PARTITION_COLUMN])
def test_changed_value_changes_the_checksum(column: str) -> None:
    other: dict[str, Any] = {
        "amount": Decimal("1500.26"),
        "fraud_reasons": ["a"],
        "shadow_reasons": ["a"],
        "review_reasons": ["a"],
        "is_fraud": True,
        "created_date": datetime(2024, 6, 10, 0, 0, 0, 1, UTC),
        "flagged_at": datetime(2024, 6, 10, 0, 0, 0, 1, UTC),
    }
    rows = orders(range(1, 9), DAY_1)
    value = other.get(column, "other" if isinstance(rows[0][column], str) else 7_777)
    assert of_days([*rows[:-1], rows[-1] | {column: value}])[DAY_1] != of_days(rows)[DAY_1]


def test_swapped_values_change_the_checksum() -> None:
    rows = [order(1, DAY_1, quantity=3), order(2, DAY_1, quantity=4)]
    assert of_days([rows[0] | {"quantity": 4}, rows[1] | {"quantity": 3}]) != of_days(rows)
    assert of_days([order(1, DAY_1, user_id=5, product_id=6)]) != of_days(
        [order(1, DAY_1, user_id=6, product_id=5)]
    )


@pytest.mark.parametrize("kind", list(Type), ids=lambda kind: kind.name)
def test_different_values_have_different_hashes(kind: Type) -> None:
    values = VALUES[kind]
    assert len({number(kind, value) for value in [*values, None]}) == len(values) + 1
    assert len({number(kind, values[0], name) for name in "xyz"}) == 3


def test_equal_floats_have_equal_hashes() -> None:
    assert number(Type.FLOAT64, 0.0) == number(Type.FLOAT64, -0.0)


def test_null_column_adds_nothing() -> None:
    day = pa.array([DAY_1, DAY_1], pa.date32())
    plain = pa.record_batch({"n": [1, 2], PARTITION_COLUMN: day})
    grown = pa.record_batch({PARTITION_COLUMN: day, "text": pa.nulls(2, pa.string()), "n": [1, 2]})
    assert list(row_hashes(plain)) == list(row_hashes(grown))


def test_rows_without_a_day_are_ignored() -> None:
    found = Checksums()
    found.add(pa.record_batch({PARTITION_COLUMN: pa.array([None, DAY_1, None], pa.date32())}))
    found.add(pa.record_batch({PARTITION_COLUMN: pa.array([None], pa.date32())}))
    found.add(pa.record_batch({PARTITION_COLUMN: pa.array([], pa.date32())}))
    assert found.per_day([DAY_1]) != {DAY_1: "0" * 16}
    assert found.per_day([date(1970, 1, 1)]) == {date(1970, 1, 1): "0" * 16}


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=30)), min_size=1, max_size=20),
    st.lists(
        st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=12)), max_size=4)), min_size=20
    ),
    st.integers(0, 19),
)
def test_slices_hash_like_the_rows_they_show(
    texts: list[str | None], lists: list[list[str | None] | None], start: int
) -> None:
    """Batches come as views of larger arrays."""
    texts, lists = (texts * 20)[:20], lists[:20]

    def batch(first: int) -> pa.RecordBatch:
        return pa.record_batch(
            {"t": pa.array(texts[first:], pa.string()), "l": pa.array(lists[first:], Type.STRINGS.value)}
        )

    whole = batch(0)
    shown = list(row_hashes(whole))[start:]
    assert list(row_hashes(whole.slice(start))) == list(row_hashes(batch(start))) == shown
