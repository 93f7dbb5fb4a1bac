"""Small silver tables in DuckDB, as the rule laboratory reads them, without a run of dbt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from streaming.business_days import JAKARTA

INSTANT, TEXTS, DAY = pa.timestamp("us", "UTC"), pa.list_(pa.string()), pa.date32()
MONEY, MONEY_SUM = pa.decimal128(18, 2), pa.decimal128(38, 2)
TABLES = {
    "silver.fact_orders": {
        **{name: pa.int64() for name in ("order_id", "user_id", "product_id", "quantity")},
        **{"amount": MONEY, "payment_method": pa.string(), "country": pa.string(), "is_fraud": pa.bool_()},
        **dict.fromkeys(("fraud_reasons", "shadow_reasons", "review_reasons"), TEXTS),
        **{"rules_version": pa.string(), "lists_version": pa.int64(), "ordered_at": INSTANT},
        **{"local_hour": pa.int64(), "topic_position": pa.int64(), "partition_date": DAY},
    },
    "silver.order_features": {
        **{"order_id": pa.int64(), "list_price": MONEY, "user_age_days": pa.int64()},
        **{"user_orders_10m": pa.int64(), "user_orders_24h": pa.int64(), "user_amount_24h": MONEY_SUM},
        **{"seconds_since_last_order": pa.int64(), "user_countries_24h": pa.int64()},
        **{"is_blacklisted": pa.bool_(), "partition_date": DAY},
    },
    "silver.order_labels": {
        **{"order_id": pa.int64(), "label": pa.string(), "is_mature": pa.bool_(), "partition_date": DAY}
    },
    "bronze.stg_rule_exemption_events": {
        **{"event": pa.string(), "lists_version": pa.int64(), "removed_version": pa.int64()},
        **{"rule_name": pa.string(), "user_id": pa.int64(), "expires_at": INSTANT},
    },
    "raw.load_log": {"table_name": pa.string(), "partition_date": DAY},
}

Row = dict[str, Any]


def silver_order(id: int, day: date, **values: Any) -> Row:
    """Return a genuine order of 10:00 in Jakarta, with its features and its label, with these values."""
    return {
        **{"order_id": id, "user_id": 1, "product_id": 1, "quantity": 1, "amount": Decimal("100.00")},
        **{"payment_method": "OVO", "country": "ID", "is_fraud": bool(values.get("fraud_reasons"))},
        **{"fraud_reasons": [], "shadow_reasons": [], "review_reasons": []},
        **{"rules_version": "0", "lists_version": 1, "topic_position": id, "partition_date": day},
        "ordered_at": datetime(day.year, day.month, day.day, 10, tzinfo=JAKARTA),
        **{"local_hour": 10, "label": "genuine", "is_mature": True},
        **{"user_orders_10m": 1, "user_orders_24h": 1, "user_countries_24h": 1, "is_blacklisted": False},
        **values,
    }


def exemption(rule: str, user_id: int, versions: tuple[int, int | None], until: datetime) -> list[Row]:
    """Return the events of an exemption that counts from one version of the lists until before another."""
    exempt = {"rule_name": rule, "user_id": user_id, "expires_at": until}
    events = [("added", versions[0], versions[1]), ("removed", versions[1], None)]
    return [
        exempt | {"event": event, "lists_version": version, "removed_version": removed}
        for event, version, removed in events
        if version is not None
    ]


def write_silver(
    connection: duckdb.DuckDBPyConnection,
    orders: Iterable[Row],
    exemptions: Sequence[Row] = (),
    loaded: Sequence[date] = (),
) -> None:
    """Write the tables of these orders; `loaded` are the days that the load log has."""
    orders = list(orders)
    rows: Mapping[str, Sequence[Row]] = {
        "bronze.stg_rule_exemption_events": exemptions,
        "raw.load_log": [{"table_name": "raw.orders", "partition_date": day} for day in loaded],
    }
    for name, columns in TABLES.items():
        found = [{column: row.get(column) for column in columns} for row in rows.get(name, orders)]
        connection.register("given_rows", pa.Table.from_pylist(found, pa.schema(list(columns.items()))))
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.split('.')[0]}")
        connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM given_rows")
