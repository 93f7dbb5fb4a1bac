"""A backtest of a year of orders, beside a bare scan of the same columns and a row-by-row evaluation.

The silver tables are made up in a DuckDB file, with what the shipped book decides as the stored reasons. The
candidate is the shipped book with lower limits. The scan reads every column that the backtest reads, once and
without a join. Row by row, Python evaluates the same book on the same features with the function that the
stream has, on a tenth of the days.

The ways take turns, each round in the opposite order of the one before, and ratios compare the time of an
order within a round.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from typing import Any

import duckdb

from ecommersss_platform.days import DAY, Days
from ecommersss_platform.laboratory.backtest import run_backtest
from ecommersss_platform.laboratory.evaluation import evaluated_sql, orders_sql
from ecommersss_platform.warehouse import Warehouse
from ecommersss_platform.warehouse.duckdb.ddl import DIALECT
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from streaming.rules import FEATURES, RULES_PATH, FeatureRow, RuleBook

FIRST = date(2025, 1, 1)
SHIPPED = RuleBook.load(RULES_PATH)
CANDIDATE = RuleBook.parse(
    SHIPPED.text.replace("amount > 50000000", "amount > 9500000").replace("300000000", "200000000")
)
TABLES = ("silver.fact_orders", "silver.order_features", "silver.order_labels")
UNREAD = {"silver.fact_orders": ("flagged_at", "topic_position"), "silver.order_features": ("user_id",)}


def measure(short: bool = False) -> dict[str, Any]:
    """All figures. `short`: a hundredth of the orders, each way once."""
    orders, days, rounds = (
        (10_000, Days(FIRST, FIRST + 20 * DAY), 1)
        if short
        else (
            *(1_000_000, Days(FIRST, FIRST + 365 * DAY)),
            5,
        )
    )
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as name:
        warehouse = DuckDbWarehouse(Path(name) / "warehouse.duckdb")
        fill(warehouse.path, orders, days)
        some = Days(days.first, days.first + len(days) // 10 * DAY)
        part = warehouse.query(f"SELECT count(*) AS n FROM ({orders_sql(some, DIALECT)}) AS part")["n"][
            0
        ].as_py()
        ways: Mapping[str, Callable[[], object]] = {
            "backtest": lambda: run_backtest(warehouse, CANDIDATE, days, datetime.now(UTC)),
            "scan": lambda: scan(warehouse),
            "row by row": lambda: row_by_row(warehouse, CANDIDATE, some),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            for way in ways if turn % 2 == 0 else reversed(ways):
                begin = time.perf_counter()
                ways[way]()
                seconds[way].append(time.perf_counter() - begin)
                print(f"{way}: {seconds[way][-1]:.2f} s", file=sys.stderr)
    return results(orders, part, len(days), seconds, load_before)


def results(
    orders: int, part: int, days: int, seconds: Mapping[str, list[float]], load_before: float
) -> dict[str, Any]:
    """The figures; `part` of the orders were evaluated row by row."""
    backtest = seconds["backtest"]
    scans = [ours / bare for ours, bare in zip(backtest, seconds["scan"], strict=True)]
    rows = [(row / part) / (ours / orders) for ours, row in zip(backtest, seconds["row by row"], strict=True)]
    ratios = {"backtest's time / that of the scan": scans, "times as fast as row by row": rows}
    return {
        "orders": orders,
        "days": days,
        "rules": sum(rule.mode != "off" for rule in CANDIDATE.rules),
        "load average before": round(load_before, 2),
        "seconds": {way: round(median(found), 3) for way, found in seconds.items()},
        "fastest and slowest (s)": {
            way: [round(min(found), 3), round(max(found), 3)] for way, found in seconds.items()
        },
        "orders, row by row": part,
        "ratios": {name: round(median(found), 1) for name, found in ratios.items()},
        "ratios, least and most": {
            name: [round(min(found), 1), round(max(found), 1)] for name, found in ratios.items()
        },
    }


def scan(warehouse: Warehouse) -> None:
    """Read each column of the tables that a backtest reads."""
    for table in TABLES:
        columns = f"COLUMNS(* EXCLUDE ({', '.join(UNREAD[table])}))" if table in UNREAD else "COLUMNS(*)"
        warehouse.query(f"SELECT bit_xor(hash({columns})) FROM {table}")


def row_by_row(warehouse: Warehouse, book: RuleBook, days: Days) -> Counter[str]:
    """Evaluate the book on each order of these days in Python, and count the orders of each rule."""
    held: Counter[str] = Counter()
    names = list(FEATURES)
    for batch in warehouse.stream(orders_sql(days, DIALECT)):
        for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            for reasons in book.evaluate(FeatureRow(*values)):
                held.update(reasons)
    return held


def fill(path: Path, orders: int, days: Days) -> None:
    """Make up the silver tables of these days, and an empty one of exemptions."""
    parameters = {"orders": orders, "start": days.start_instant, "seconds": len(days) * 86_400}
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'Asia/Jakarta'")
        for statement in _FILL.split(";"):
            used = {name: value for name, value in parameters.items() if f"${name}" in statement}
            connection.execute(statement, used)
        # What the stream would have stored.
        connection.execute(
            "CREATE TABLE silver.decided AS SELECT id, fraud, shadow, review "
            f"FROM ({evaluated_sql(SHIPPED, days, DIALECT)}) AS evaluated"
        )
        connection.execute(
            "CREATE OR REPLACE TABLE silver.fact_orders AS SELECT facts.* REPLACE"
            " (len(fraud) > 0 AS is_fraud, fraud AS fraud_reasons, shadow AS shadow_reasons,"
            " review AS review_reasons)"
            " FROM silver.fact_orders AS facts INNER JOIN silver.decided ON order_id = id ORDER BY order_id"
        )
        connection.execute("DROP TABLE silver.decided")


_FILL = """
CREATE TEMP MACRO drawn(n, salt, size) AS (hash(n, salt) % size)::BIGINT;
CREATE SCHEMA silver;
CREATE SCHEMA bronze;
CREATE TABLE bronze.stg_rule_exemption_events (event VARCHAR, lists_version BIGINT, removed_version BIGINT,
    rule_name VARCHAR, user_id BIGINT, expires_at TIMESTAMPTZ);
CREATE TABLE silver.fact_orders AS
SELECT (1735689600000 + n) * 4096 AS order_id,
       1 + drawn(n, 0, 50000) AS user_id,
       1 + drawn(n, 1, 1000) AS product_id,
       CASE WHEN drawn(n, 2, 500) = 0 THEN 150 ELSE 1 + drawn(n, 3, 4) END AS quantity,
       ((1000 + drawn(n, 4, 2000000)) * (CASE WHEN drawn(n, 5, 100) = 0 THEN 200 ELSE 5 END))::DECIMAL(18, 2)
           AS amount,
       (['Bank Transfer', 'Paylater', 'Credit Card', 'Gopay', 'OVO', 'DANA'])[1 + drawn(n, 6, 6)]
           AS payment_method,
       CASE WHEN drawn(n, 7, 70) = 0 THEN 'SG' ELSE 'ID' END AS country,
       FALSE AS is_fraud,
       []::VARCHAR[] AS fraud_reasons, []::VARCHAR[] AS shadow_reasons, []::VARCHAR[] AS review_reasons,
       'a1b2c3d4e5f6a7b8' AS rules_version,
       1::BIGINT AS lists_version,
       $start + to_microseconds((n * ($seconds * 1000000.0 / $orders))::BIGINT) AS ordered_at,
       hour(ordered_at) AS local_hour,
       ordered_at AS flagged_at,
       n * 240 AS topic_position,
       ordered_at::DATE AS partition_date
FROM range($orders) AS orders(n);
CREATE TABLE silver.order_features AS
SELECT order_id, user_id,
       (amount / quantity * CASE WHEN drawn(order_id, 0, 200) = 0 THEN 0.1 ELSE 1 END)::DECIMAL(18, 2)
           AS list_price,
       drawn(user_id, 1, 900) AS user_age_days,
       1 + CASE WHEN drawn(order_id, 1, 100) = 0 THEN 6 ELSE 0 END::BIGINT AS user_orders_10m,
       user_orders_10m + drawn(order_id, 2, 2) AS user_orders_24h,
       (amount * user_orders_24h)::DECIMAL(38, 2) AS user_amount_24h,
       CASE WHEN drawn(order_id, 3, 20) > 0 THEN drawn(order_id, 4, 900000) END AS seconds_since_last_order,
       1 + CASE WHEN drawn(order_id, 5, 300) = 0 THEN 1 ELSE 0 END::BIGINT AS user_countries_24h,
       drawn(user_id, 6, 1000) = 0 AS is_blacklisted,
       partition_date
FROM silver.fact_orders;
CREATE TABLE silver.order_labels AS
SELECT order_id,
       partition_date < DATE '2025-11-01' AS is_mature,
       CASE WHEN drawn(order_id, 6, 60) = 0 THEN 'fraud' WHEN is_mature THEN 'genuine' ELSE 'unknown' END
           AS label,
       partition_date
FROM silver.fact_orders
"""
