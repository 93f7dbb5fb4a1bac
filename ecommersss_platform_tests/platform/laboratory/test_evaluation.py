"""The SQL of a rule book gives each order the reasons that the stream gives it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import duckdb
import sqlglot

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.evaluation import evaluated_sql
from ecommersss_platform.warehouse.bigquery.sql import DIALECT as BIGQUERY
from ecommersss_platform.warehouse.duckdb.ddl import DIALECT as DUCKDB
from ecommersss_platform_tests.support.shop import NOON
from ecommersss_platform_tests.support.silver_tables import exemption, silver_order, write_silver
from streaming.business_days import business_day
from streaming.lists import Exemption, UserLists
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
    "is_blacklisted": [None, False, True],
}

# In version 2 of the lists user 1 is exempt from a rule of each mode, in version 3 from one of them no more.
EXEMPT = [
    Exemption("foreign_country", 1, "r", "a", NOON + timedelta(days=1)),
    Exemption("to_be_seen", 1, "r", "a", NOON),
    Exemption("share", 1, "r", "a", NOON + timedelta(microseconds=1)),
]
EVENTS = [
    *exemption("foreign_country", 1, (2, 3), EXEMPT[0].expires_at),
    *exemption("to_be_seen", 1, (2, None), EXEMPT[1].expires_at),
    *exemption("share", 1, (2, None), EXEMPT[2].expires_at),
]
CONNECTION = duckdb.connect()
CONNECTION.execute("SET TimeZone = 'UTC'")


def reasons_in_sql(
    book: RuleBook, rows: Sequence[FeatureRow], versions: Sequence[int] = (0,)
) -> list[tuple[Any, ...]]:
    """Return the fraud, shadow and review reasons of each row and the exempted rules, computed in SQL."""
    orders = [
        silver_order(row.id, TODAY, lists_version=version, ordered_at=row.created_date)
        | {name: getattr(row, name) for name in VALUES}
        for row, version in zip(rows, versions, strict=True)
    ]
    write_silver(CONNECTION, orders, EVENTS)
    select = evaluated_sql(book, DAYS, DUCKDB)
    return CONNECTION.execute(
        f"SELECT fraud, shadow, review, exempted FROM ({select}) ORDER BY id"
    ).fetchall()


def test_reasons_in_sql_are_those_of_the_stream() -> None:
    """With exemptions, as of the version of the lists that decided about the order."""
    chosen = random.Random(7)
    rows = [
        FeatureRow(id, **{name: chosen.choice(values) for name, values in VALUES.items()})
        for id in range(1, 1_001)
    ]
    versions = [chosen.choice([1, 2, 3]) for _ in rows]
    exempt = {1: UserLists(), 2: UserLists(), 3: UserLists()}
    for entry in EXEMPT:
        exempt[2].exempt(entry)
    for entry in EXEMPT[1:]:
        exempt[3].exempt(entry)
    expected = []
    for row, version in zip(rows, versions, strict=True):
        reasons = BOOK.evaluate(row)
        held = [name for names in reasons for name in names]
        exempt[version].drop_exempted(row.user_id, row.created_date, *reasons)
        dropped = set(held) - {name for names in reasons for name in names}
        expected.append((*reasons, [rule.name for rule in BOOK.rules if rule.name in dropped]))
    assert reasons_in_sql(BOOK, rows, versions) == expected
    seen = {name for reasons in expected for names in reasons[:3] for name in names}
    assert seen == {rule.name for rule in BOOK.rules if rule.mode != "off"}
    assert {name for *_, exempted in expected for name in exempted} == {it.rule for it in EXEMPT}


def test_a_book_without_rules_of_a_mode_gives_empty_lists() -> None:
    book = RuleBook.parse("rules: [{name: never, description: d, mode: 'off', when: 'TRUE'}]")
    row = FeatureRow(1, 1, 1, 1, Decimal("1.00"), "OVO", "ID", NOON, 12)
    assert reasons_in_sql(book, [row]) == [([], [], [], [])]


def test_both_dialects_write_one_statement() -> None:
    for dialect in (DUCKDB, BIGQUERY):
        select = evaluated_sql(BOOK, DAYS, dialect)
        [statement] = sqlglot.parse(select, dialect=dialect.name)
        assert {"fraud", "shadow", "review", "exempted"} <= {item.alias_or_name for item in statement.selects}
        assert f"facts.partition_date >= DATE '{TODAY}'" in select
        assert "switched_off" not in select
