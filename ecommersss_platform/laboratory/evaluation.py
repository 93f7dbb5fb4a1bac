"""A rule book as SQL: which of its rules hold for each order of the warehouse.

The SELECT reads the facts of an order and its features as of its position. It gives the same reasons as
`RuleBook.evaluate` gives the stream; the random sample is no rule, and not in it.
"""

from __future__ import annotations

from typing import Final

from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.dialect import Dialect
from streaming.rules import FEATURES, Feature, Mode, RuleBook, sql
from streaming.rules.features import Kind

REASONS: Final[dict[Mode, str]] = {"active": "fraud", "shadow": "shadow", "review": "review"}
"""The column of `evaluated_sql` with the rules of a mode that hold: an array of names, in rule order."""

_FACTS: Final = {
    "id": "order_id",
    "user_id": "user_id",
    "product_id": "product_id",
    "quantity": "quantity",
    "amount": "amount",
    "payment_method": "payment_method",
    "country": "country",
    "created_date": "ordered_at",
    "local_hour": "local_hour",
}
"""The columns of `silver.fact_orders` that rules use; all others are in `silver.order_features`."""

_STORED: Final = (
    *("is_fraud", "fraud_reasons", "review_reasons", "shadow_reasons"),
    *("rules_version", "lists_version", "topic_position", "partition_date"),
)


def orders_sql(days: Days) -> str:
    """Write the SELECT of the orders of these days that have features.

    Its columns are those of `FEATURES`, and what the stream stored about the order, as in
    `silver.fact_orders`.
    """
    columns = [_column(feature) for feature in FEATURES.values()]
    columns += [f"facts.{name}" for name in _STORED]
    return (
        f"SELECT {', '.join(columns)} FROM silver.fact_orders AS facts "  # noqa: S608
        "INNER JOIN silver.order_features AS features ON facts.order_id = features.order_id "
        f"WHERE {day_filter(days, 'facts.partition_date')} AND {day_filter(days, 'features.partition_date')}"
    )


def evaluated_sql(book: RuleBook, days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the orders of these days and the rules of the book that hold for each.

    Its columns are those of `orders_sql`, and `fraud`, `shadow` and `review` (see `REASONS`).
    """
    reasons = [f"{_held(book, mode, dialect)} AS {column}" for mode, column in REASONS.items()]
    return f"SELECT *, {', '.join(reasons)} FROM ({orders_sql(days)}) AS orders"  # noqa: S608


def _column(feature: Feature) -> str:
    if feature.name == "is_blacklisted":  # not in the warehouse yet
        return "CAST(NULL AS BOOL) AS is_blacklisted"
    stored = _FACTS.get(feature.name)
    value = f"facts.{stored}" if stored else f"features.{feature.name}"
    # Conditions were checked for so many digits; the warehouse has a wider type for sums.
    if feature.type.kind is Kind.DECIMAL:
        value = f"CAST({value} AS DECIMAL({feature.type.digits}, {feature.type.scale}))"
    return f"{value} AS {feature.name}"


def _held(book: RuleBook, mode: Mode, dialect: Dialect) -> str:
    return dialect.present(
        [
            f"CASE WHEN {sql(rule, dialect.name)} THEN {dialect.text(rule.name)} END"
            for rule in book.rules
            if rule.mode == mode
        ]
    )
