"""The SQL of a rule book gives each order the reasons that the stream gives it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.evaluation import evaluated_sql
from ecommersss_platform.warehouse.bigquery.sql import DIALECT as BIGQUERY
from ecommersss_platform.warehouse.duckdb.ddl import DIALECT as DUCKDB
from ecommersss_platform_tests.support.shop import NOON
from streaming.business_days import business_day
from streaming.rules import RULES_PATH, FeatureRow, RuleBook

# The shipped rules, and more for the columns and the mode that they do not use.
BOOK = RuleBook.parse(
    RULES_PATH.read_text()
    + """
  - {name: to_be_seen, description: d, mode: review, when: list_price IS NULL OR quantity > 2}
  - {name: to_be_seen_too, description: d, mode: review, when: "amount * 2 > user_amount_24h + 1.5"}
  - {name: share, description: d, mode: shadow, when: "amount / NULLIF(user_amount_24h, 0) < 0.5"}
  - {name: newcomer, description: d, mode: active, when: "user_age_days IN (0, 1) OR user_age_days < 0"}
  - {name: not_listed, description: d, mode: shadow, when: NOT is_blacklisted}
  - {name: late, description: d, mode: shadow, when: created_date >= TIMESTAMPTZ '2026-03-02 12:00:00+07:00'}
  - {name: some_ids, description: d, mode: active, when: id + user_id * product_id > 3}
  - {name: switched_off, description: d, mode: 'off', when: TRUE}
"""
)
TODAY = business_day(NOON)
DAYS = Days.between(TODAY, TODAY)

AMOUNTS = [Decimal(n) for n in ("0.00", "1500.00", "50000000.01", "300000000.00")]
LARGEST_SUM = Decimal("99999999999999999999999999.99")
COUNTS = [None, 1, 2, 6, 11]
VALUES: dict[str, Sequence[Any]] = {
    "user_id": [1, 2, 3],
    "product_id": [1, 2, 3],
    "quantity": [1, 100, 101, 301],
    "amount": AMOUNTS,
    "payment_method": ["OVO", "Bank Transfer", "kartu 'x'"],
    "country": ["ID", "SG"],
    "created_date": [NOON + timedelta(microseconds=n) for n in (-1, 0, 1)],
    "local_hour": [0, 4, 5, 12, 23],
    "list_price": [None, *AMOUNTS],
    "user_age_days": [None, -1, 0, 1, 40],
    "user_orders_10m": COUNTS,
    "user_orders_24h": COUNTS,
    "user_amount_24h": [None, *AMOUNTS, LARGEST_SUM],
    "seconds_since_last_order": [None, 0, 30, 86_400],
    "user_countries_24h": COUNTS,
    "is_blacklisted": [None],
}

CONNECTION = duckdb.connect()
CONNECTION.execute("SET TimeZone = 'UTC'")
CONNECTION.execute("CREATE SCHEMA silver")


def reasons_in_sql(book: RuleBook, rows: Sequence[FeatureRow]) -> list[tuple[Any, ...]]:
    """Return the fraud, shadow and review reasons of each row, computed in SQL."""
    columns = {name: [getattr(row, name) for row in rows] for name in FeatureRow.__struct_fields__}
    columns["user_amount_24h"] = pa.array(columns["user_amount_24h"], pa.decimal128(38, 2))
    for name in ("amount", "list_price"):
        columns[name] = pa.array(columns[name], pa.decimal128(18, 2))
    CONNECTION.register("given_rows", pa.table(columns))
    day = f"DATE '{TODAY}' AS partition_date"
    CONNECTION.execute(
        "CREATE OR REPLACE TABLE silver.fact_orders AS"
        " SELECT id::BIGINT AS order_id, user_id, product_id, quantity, amount, payment_method, country,"
        " created_date::TIMESTAMPTZ AS ordered_at, local_hour, FALSE AS is_fraud,"
        " []::VARCHAR[] AS fraud_reasons, []::VARCHAR[] AS review_reasons, []::VARCHAR[] AS shadow_reasons,"
        f" 'v' AS rules_version, 0 AS lists_version, id AS topic_position, {day} FROM given_rows"
    )
    kinds = "list_price, user_age_days::BIGINT AS user_age_days, user_orders_10m::BIGINT AS user_orders_10m,"
    kinds += " user_orders_24h::BIGINT AS user_orders_24h, user_amount_24h,"
    kinds += " seconds_since_last_order::BIGINT AS seconds_since_last_order,"
    kinds += " user_countries_24h::BIGINT AS user_countries_24h, is_blacklisted::BOOLEAN AS is_blacklisted"
    CONNECTION.execute(
        "CREATE OR REPLACE TABLE silver.order_features AS"
        f" SELECT id::BIGINT AS order_id, {kinds}, {day} FROM given_rows"
    )
    select = evaluated_sql(book, DAYS, DUCKDB)
    return CONNECTION.execute(f"SELECT fraud, shadow, review FROM ({select}) ORDER BY id").fetchall()


def test_reasons_in_sql_are_those_of_the_stream() -> None:
    chosen = random.Random(7)
    rows = [
        FeatureRow(id, **{name: chosen.choice(values) for name, values in VALUES.items()})
        for id in range(1, 1_001)
    ]
    expected = [BOOK.evaluate(row) for row in rows]
    assert reasons_in_sql(BOOK, rows) == expected
    seen = {name for reasons in expected for names in reasons for name in names}
    assert seen == {rule.name for rule in BOOK.rules if rule.mode != "off"} - {
        "blacklisted_user",
        "not_listed",
    }


def test_a_book_without_rules_of_a_mode_gives_empty_lists() -> None:
    book = RuleBook.parse("rules: [{name: never, description: d, mode: 'off', when: 'TRUE'}]")
    row = FeatureRow(1, 1, 1, 1, Decimal("1.00"), "OVO", "ID", NOON, 12)
    assert reasons_in_sql(book, [row]) == [([], [], [])]


def test_both_dialects_write_one_statement() -> None:
    for dialect in (DUCKDB, BIGQUERY):
        select = evaluated_sql(BOOK, DAYS, dialect)
        [statement] = sqlglot.parse(select, dialect=dialect.name)
        assert {"fraud", "review", "shadow"} <= {item.alias_or_name for item in statement.selects}
        assert f"facts.partition_date >= DATE '{TODAY}'" in select
        assert "switched_off" not in select
