"""Rows of the raw table `orders`, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ecommersss_platform.contracts import ORDERS
from streaming.business_days import JAKARTA

DAY_1, DAY_2, DAY_3 = date(2024, 6, 10), date(2024, 6, 11), date(2024, 6, 12)


def order(id: int, day: date, /, **values: Any) -> dict[str, Any]:
    """Return one row, placed `id` seconds after the day's midnight in Jakarta."""
    placed = (datetime.combine(day, time.min, JAKARTA) + timedelta(seconds=id)).astimezone(UTC)
    row: dict[str, Any] = {
        "id": id,
        "user_id": 1 + id % 7,
        "product_id": 1 + id % 3,
        "quantity": 1,
        "amount": Decimal("1500.25"),
        "payment_method": "Gopay",
        "country": "ID",
        "is_fraud": False,
        "fraud_reasons": [],
        "shadow_reasons": [],
        "review_reasons": [],
        "rules_version": "abc",
        "lists_version": 0,
        "created_date": placed,
        "flagged_at": placed + timedelta(milliseconds=5),
        "position": 100 * id,
        "partition_date": day,
    }
    assert row.keys() >= values.keys()
    return row | values


def orders(ids: Sequence[int], day: date, /, **values: Any) -> list[dict[str, Any]]:
    return [order(id, day, **values) for id in ids]


def reader(rows: list[dict[str, Any]], schema: pa.Schema = ORDERS.arrow_schema) -> pa.RecordBatchReader:
    """Read the rows in batches of three, so that even small tests see several."""
    return pa.Table.from_pylist(rows, schema).to_reader(max_chunksize=3)


def by_id(rows: pa.RecordBatchReader | pa.Table) -> list[dict[str, Any]]:
    table = rows.read_all() if isinstance(rows, pa.RecordBatchReader) else rows
    return sorted(table.to_pylist(), key=lambda row: (str(row["partition_date"]), row["id"]))
