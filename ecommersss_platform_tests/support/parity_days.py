"""Orders of three days for tests of parity, two books to decide them, and their features in the warehouse."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal

from ecommersss_platform.contracts import RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.dbt.project import build_arguments
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.dbt_runs import dbt_events
from ecommersss_platform_tests.support.raw_days import Row, write_raw
from ecommersss_platform_tests.support.shop import NOON, order
from streaming.business_days import business_day
from streaming.orders import encode
from streaming.rules import RULES_PATH, RuleBook

USERS, LINES = 30, 300
DAYS = Days.between(business_day(NOON) - timedelta(days=3), business_day(NOON) + timedelta(days=1))
BEFORE = RuleBook.load(RULES_PATH)
AFTER = RuleBook.parse(
    "sample: 0.2\n"
    + RULES_PATH.read_text()
    + """
  - {name: blocked, description: d, mode: active, when: is_blacklisted}
  - {name: cheap, description: d, mode: review, when: amount < list_price * quantity}
  - {name: newer, description: d, mode: shadow, when: user_age_days < 500}
"""
)
_MODELS = ("+order_features_staged", "order_features", "stg_rule_books", "stg_rule_exemption_events")
_TESTS = ("fact_orders_staged+1,resource_type:test", "order_features_staged+1,resource_type:test")


def order_lines(seed: int, first_id: int) -> list[bytes]:
    """Return lines of orders, close in time and late."""
    pick = random.Random(seed)
    clock, made = NOON + timedelta(minutes=first_id), []
    for id in range(first_id, first_id + LINES):
        clock += timedelta(seconds=pick.choice([0, 0, 1, 60]))
        made.append(
            order(
                id,
                user_id=pick.randint(1, USERS),
                quantity=pick.choice([1, 2, 101]),
                amount=Decimal(pick.choice([1000, 3000, 60_000_000, 150_000_000])),
                payment_method=pick.choice(["OVO", "Bank Transfer"]),
                country=pick.choice(["ID", "ID", "ID", "SG"]),
                created_date=clock - timedelta(hours=pick.choice([0, 0, 0, 0, 0, 1, 24, 60])),
            )
        )
    return [encode(one) for one in made]


def build_features(settings: Settings, rows: Mapping[RawTable, list[Row]]) -> None:
    """Write the raw tables to the warehouse, and build what parity reads."""
    write_raw(settings.warehouse_path, rows)
    select = ["--indirect-selection", "empty", "--select", *_MODELS, *_TESTS]
    for _ in dbt_events(settings, [*build_arguments(), *select]):
        pass
