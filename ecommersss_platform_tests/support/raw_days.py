"""A small warehouse of raw tables with awkward values, for tests of what dbt makes of them.

Four business days, the third without orders: first and last microseconds of days, an amount of zero and one
that fills NUMERIC(18,2), ties, quotes and emoji, a user without orders, versions of a user and a product, and
orders of a user and a product that the dimensions do not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ecommersss_platform.contracts import (
    DISPUTES,
    ORDERS,
    PRODUCTS,
    RAW_TABLES,
    RULE_BOOKS,
    RULE_EXEMPTION_EVENTS,
    SHIPMENTS,
    USER_LIST_EVENTS,
    USERS,
    VERDICTS,
    RawTable,
)
from ecommersss_platform.days import Days
from ecommersss_platform.postgres.extraction import read_batches
from ecommersss_platform.pseudonyms import add_keyed_hashes
from streaming.business_days import JAKARTA

Row = dict[str, Any]

MOST = Decimal("9999999999999999.99")
"""The largest amount there is."""


def at(day: str, clock: str) -> datetime:
    """An instant, as a clock in Jakarta shows it."""
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=JAKARTA)


def written(version: int, day: str, clock: str) -> Row:
    """What every version of a row has: its number, and when it was written."""
    return {
        "updated_at": at(day, clock),
        "version": version,
        "valid_from": at(day, clock),
        "partition_date": date.fromisoformat(day),
    }


def user(version: int, id: int, day: str, clock: str = "00:00", **values: Any) -> Row:
    row = {
        "id": id,
        "first_name": f"First{id}",
        "last_name": f"Last{id}",
        "default_payment": None,
        "created_date": at("2024-02-28", "00:00"),
    }
    return row | written(version, day, clock) | values


def product(version: int, id: int, day: str, price: str, **values: Any) -> Row:
    row = {
        "id": id,
        "category": "Minuman",
        "price": Decimal(price),
        "created_date": at("2024-02-28", "23:59:59.999999"),
    }
    return row | written(version, day, "06:00") | values


def shipment(version: int, order_id: int, status: str, day: str, clock: str = "12:00", **values: Any) -> Row:
    """A version of a shipment, in which only the time of its status is set unless `values` has more."""
    steps = ("packed_at", "shipped_at", "delivered_at", "cancelled_at", "returned_at")
    row = {"order_id": order_id, "status": status, "refund_amount": Decimal(0), **dict.fromkeys(steps)}
    return row | {f"{status}_at": at(day, clock)} | written(version, day, clock) | values


def dispute(version: int, id: int, order_id: int, outcome: str, day: str, **values: Any) -> Row:
    """A version of a dispute about fraud that was opened or decided at noon of the day."""
    row = {
        "id": id,
        "order_id": order_id,
        "kind": "fraud",
        "amount": Decimal("100.10"),
        "opened_at": at(day, "12:00"),
        "outcome": outcome,
        "decided_at": None if outcome == "open" else at(day, "12:00"),
    }
    return row | written(version, day, "12:00") | values


def verdict(id: int, order_id: int, verdict: str, day: str, **values: Any) -> Row:
    """A verdict that was recorded at noon of the day on which it was made."""
    row = {
        "id": id,
        "order_id": order_id,
        "verdict": verdict,
        "reviewer": "Sari",
        "note": None,
        "decided_at": at(day, "12:00"),
        "recorded_at": at(day, "12:00"),
        "partition_date": date.fromisoformat(day),
    }
    return row | values


def order(
    id: int,
    user_id: int,
    product_id: int,
    day: str,
    clock: str,
    amount: str | Decimal,
    payment_method: str,
    active: Sequence[str] = (),
    shadow: Sequence[str] = (),
    review: Sequence[str] = (),
) -> Row:
    placed = at(day, clock)
    return {
        "id": id,
        "user_id": user_id,
        "product_id": product_id,
        "quantity": 1,
        "amount": Decimal(amount),
        "payment_method": payment_method,
        "country": "ID",
        "is_fraud": bool(active),
        "fraud_reasons": list(active),
        "shadow_reasons": list(shadow),
        "review_reasons": list(review),
        "rules_version": "v1",
        "lists_version": 0,
        "created_date": placed,
        "flagged_at": placed,
        "position": id * 200,
        "partition_date": date.fromisoformat(day),
    }


def list_event(id: int, event: str, version: int, day: str, **values: Any) -> Row:
    row = {
        "event_id": id,
        "entry": id // 2,
        "event": event,
        "lists_version": version,
        "event_at": at(day, "12:00"),
        "user_id": 2,
        "list": "block",
        "source": "person",
        "reason": "chargebacks",
        "expires_at": None,
        "partition_date": date.fromisoformat(day),
    }
    return row | values


def exemption_event(id: int, event: str, version: int, day: str, **values: Any) -> Row:
    row = {
        "event_id": id,
        "exemption": id // 2,
        "event": event,
        "lists_version": version,
        "event_at": at(day, "12:00"),
        "rule": "foreign_country",
        "user_id": 2,
        "reason": "abroad until spring",
        "author": "Sari",
        "expires_at": at("2024-05-01", "00:00"),
        "partition_date": date.fromisoformat(day),
    }
    return row | values


USER_ROWS = [
    user(1, 1, "2024-02-28", username="siti", email="siti.rahma@gmail.com", email_hash="1" * 64),
    user(2, 2, "2024-02-28", username="budi@mail.id", email="budi@mail.id"),
    user(3, 3, "2024-02-28", username="Ñandú 💸", email="éva@ñ.com", default_payment="DANA"),
    user(
        4,
        1,
        "2024-03-01",
        username="siti",
        email="siti@kantor.co.id",
        email_hash="4" * 64,
        default_payment="OVO",
    ),
    # Two versions of one instant: the higher number is the newer one.
    user(5, 2, "2024-03-01", "09:00", username="budi@mail.id", email="budi@lama.id", default_payment="OVO"),
    user(6, 2, "2024-03-01", "09:00", username="budi@mail.id", email="budi@mail.id"),
]
PRODUCT_ROWS = [
    product(1, 1, "2024-02-28", "10.00", product_name="Kopi \"Luwak\"; 50% 'asli'"),
    product(2, 2, "2024-02-28", "0.00", product_name="Teh"),
    product(3, 3, "2024-02-28", "5.00", product_name="never ordered"),
    product(4, 1, "2024-03-02", "12.50", product_name="Kopi \"Luwak\"; 50% 'asli'"),
]
ORDER_ROWS = [
    order(101, 1, 1, "2024-02-28", "00:00:00", "100.10", "OVO"),
    order(102, 1, 1, "2024-02-28", "04:59:59.999999", "0.00", "OVO"),
    order(
        *(103, 1, 2, "2024-02-28", "05:00:00", "300000000.00", "DANA"),
        active=["extreme_order", "wallet_limit"],
        shadow=["rapid_orders"],
    ),
    order(104, 2, 1, "2024-02-28", "23:59:59.999999", "100.10", "DANA"),
    order(105, 2, 1, "2024-02-29", "00:00:00", "0.10", "Gopay", active=["foreign_country"]),
    order(
        *(106, 2, 1, "2024-02-29", "03:00:00", "0.20", "Gopay"),
        active=["foreign_country"],
        shadow=["rapid_orders"],
    ),
    order(107, 2, 2, "2024-02-29", "12:00:00", "0.30", "Kartu ✓ 'x'", active=["foreign_country"]),
    order(
        *(108, 1, 1, "2024-02-29", "12:00:00", "100.10", "DANA"),
        shadow=["rapid_orders", "spend_burst"],
    ),
    order(109, 9, 8, "2024-03-02", "01:00:00", MOST, "Bank Transfer"),
    order(
        *(110, 9, 8, "2024-03-02", "01:00:00", MOST, "Bank Transfer"),
        active=["night_bulk_order", "extreme_order"],
    ),
]
SHIPMENT_ROWS = [
    shipment(1, 101, "packed", "2024-02-28"),
    shipment(2, 101, "delivered", "2024-03-01", packed_at=at("2024-02-28", "12:00")),
    shipment(3, 103, "cancelled", "2024-02-29", refund_amount=Decimal("300000000.00")),
]
DISPUTE_ROWS = [
    dispute(1, 1, 105, "open", "2024-03-01"),
    dispute(2, 1, 105, "lost", "2024-03-02", opened_at=at("2024-03-01", "12:00")),
]
VERDICT_ROWS = [
    verdict(1, 103, "fraud", "2024-02-29", note="the bank's \"list\"; 50% 'sure' ✓"),
    verdict(2, 103, "genuine", "2024-03-01"),
]
RULE_BOOK_ROWS: list[Row] = [
    {
        "version": "v1",
        "text": "rules: # the \"book\"; 50% 'sure' ✓\r\n",
        "first_position": 101 * 200,
        "first_used_at": at("2024-02-28", "00:00:00"),
        "number": 1,
        "partition_date": date(2024, 2, 28),
    }
]
LIST_EVENT_ROWS = [
    list_event(2, "added", 1, "2024-02-29"),
    list_event(3, "removed", 3, "2024-03-02"),
    list_event(4, "added", 2, "2024-03-01", list="allow", reason='the "bank\'s" list; 50%'),
]
EXEMPTION_EVENT_ROWS = [
    exemption_event(2, "added", 4, "2024-02-29"),
    exemption_event(3, "removed", 5, "2024-03-02"),
    exemption_event(4, "added", 6, "2024-03-02", user_id=1, reason='a "reseller\'s"; 50% ✓'),
]
SAMPLE: Mapping[RawTable, list[Row]] = {
    USERS: USER_ROWS,
    PRODUCTS: PRODUCT_ROWS,
    ORDERS: ORDER_ROWS,
    SHIPMENTS: SHIPMENT_ROWS,
    DISPUTES: DISPUTE_ROWS,
    VERDICTS: VERDICT_ROWS,
    RULE_BOOKS: RULE_BOOK_ROWS,
    USER_LIST_EVENTS: LIST_EVENT_ROWS,
    RULE_EXEMPTION_EVENTS: EXEMPTION_EVENT_ROWS,
}


def raw_rows(database: str, days: Days) -> dict[RawTable, list[Row]]:
    """Return the rows that every raw table would hold of these days, with e-mail addresses hashed."""
    found = {}
    for table in RAW_TABLES:
        select, parameters = table.select(days)
        batches = read_batches(database, select, parameters, table.source_schema, 1_000_000)
        rows = pa.RecordBatchReader.from_batches(table.source_schema, batches)
        found[table] = add_keyed_hashes(rows, table, "key").read_all().to_pylist()
    return found


def write_raw(path: Path, tables: Mapping[RawTable, list[Row]] = SAMPLE) -> None:
    """Write these raw tables into the DuckDB file, in place of what it has under their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS raw")
        for table, rows in tables.items():
            connection.register("arrow_rows", pa.Table.from_pylist(rows, schema=table.arrow_schema))
            connection.execute(f"CREATE OR REPLACE TABLE raw.{table.name} AS SELECT * FROM arrow_rows")


def read(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query; instants are in UTC."""
    [rows] = read_each(path, [sql])
    return rows


def read_each(path: Path, queries: Iterable[str]) -> list[list[tuple[Any, ...]]]:
    """The rows of each query. Opening the file takes longer than most queries, so it is opened once."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return [connection.execute(sql).fetchall() for sql in queries]
