"""Rules and rows for tests of the rule engine."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from streaming.rules import FeatureRow, Rule, RuleBook

ROW: dict[str, Any] = {
    "id": 1,
    "user_id": 2,
    "product_id": 3,
    "quantity": 4,
    "amount": Decimal("100.00"),
    "payment_method": "DANA",
    "country": "ID",
    "created_date": datetime(2026, 3, 5, 12, tzinfo=UTC),
    "local_hour": 19,
    "list_price": Decimal("25.00"),
    "user_age_days": 10,
    "user_orders_10m": 1,
    "user_orders_24h": 2,
    "user_amount_24h": Decimal("150.50"),
    "seconds_since_last_order": None,
    "user_countries_24h": 1,
    "is_blacklisted": None,
}


def row(**changes: Any) -> FeatureRow:
    """Return a feature row with some values changed."""
    return FeatureRow(**(ROW | changes))


def book(*rules: tuple[str, str, str]) -> RuleBook:
    """Return a book of rules given as (name, mode, when)."""
    text = "rules:\n"
    for name, mode, when in rules:
        quoted = when.replace("'", "''")
        text += f"  - name: {name}\n    description: d\n    mode: {mode}\n    when: '{quoted}'\n"
    return RuleBook.parse(text, "test.yml")


def rule(when: str) -> Rule:
    """Return an active rule."""
    return book(("r", "active", when)).rules[0]
