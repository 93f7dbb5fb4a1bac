"""A rule book as SQL: which of its rules hold for each order of the warehouse.

The SELECT reads the facts of an order, its features as of its position, and the exemptions in the version of
the lists that decided about it. It gives the reasons that the stream gives with this book; only the random
sample is no rule, and not among them.
"""

from __future__ import annotations

from typing import Final

from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.dialect import Dialect
from streaming.rules import FEATURES, Feature, Mode, Rule, RuleBook, sql
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


def orders_sql(days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the orders of these days that have features.

    Its columns are those of `FEATURES`, what the stream stored about the order, as in `silver.fact_orders`,
    and `exempt_from`: the rules that do not hold for the user, as text with commas around each, or NULL.
    """
    columns = [_column(feature, dialect) for feature in FEATURES.values()]
    columns += [f"facts.{name}" for name in _STORED]
    return (
        f"SELECT {', '.join(columns)}, exempt.exempt_from FROM silver.fact_orders AS facts "  # noqa: S608
        "INNER JOIN silver.order_features AS features ON facts.order_id = features.order_id "
        f"LEFT JOIN ({_exempt_sql(days)}) AS exempt ON facts.order_id = exempt.order_id "
        f"WHERE {day_filter(days, 'facts.partition_date')} AND {day_filter(days, 'features.partition_date')}"
    )


def evaluated_sql(book: RuleBook, days: Days, dialect: Dialect, *, only_held: bool = False) -> str:
    """Write the SELECT of the orders of these days and the rules of the book that hold for each.

    Its columns are those of `orders_sql`, `fraud`, `shadow` and `review` (see `REASONS`), and `exempted`: an
    array of the rules that would hold if the user were not exempt. `only_held`: leave out the orders for
    which no rule held, holds or would hold, which are most: that is several times as fast.
    """
    reasons = [f"{_held(book, mode, dialect)} AS {column}" for mode, column in REASONS.items()]
    stored = "is_fraud OR array_length(shadow_reasons) > 0 OR array_length(review_reasons) > 0"
    conditions = " OR ".join(
        [stored, *(f"({sql(it, dialect.name)})" for it in book.rules if it.mode != "off")]
    )
    return (
        f"SELECT *, {', '.join(reasons)}, {_exempted(book, dialect)} AS exempted "  # noqa: S608
        f"FROM ({orders_sql(days, dialect)}) AS orders{f' WHERE {conditions}' if only_held else ''}"
    )


def _exempt_sql(days: Days) -> str:
    """Write the SELECT of the orders whose users were exempt from rules, as of the lists that decided."""
    return (
        "SELECT facts.order_id, concat(',', string_agg(exemptions.rule_name, ','), ',') AS exempt_from "  # noqa: S608
        "FROM silver.fact_orders AS facts INNER JOIN bronze.stg_rule_exemption_events AS exemptions "
        "ON facts.user_id = exemptions.user_id AND facts.ordered_at < exemptions.expires_at "
        "AND exemptions.event = 'added' AND facts.lists_version >= exemptions.lists_version "
        "AND (exemptions.removed_version IS NULL OR facts.lists_version < exemptions.removed_version) "
        f"WHERE {day_filter(days, 'facts.partition_date')} GROUP BY facts.order_id"
    )


def _column(feature: Feature, dialect: Dialect) -> str:
    stored = _FACTS.get(feature.name)
    value = f"facts.{stored}" if stored else f"features.{feature.name}"
    # Conditions were checked for the digits of the feature; the warehouse has a wider type for sums.
    if feature.type.kind is Kind.DECIMAL:
        value = dialect.narrowed(value, feature.type.digits, feature.type.scale)
    return f"{value} AS {feature.name}"


def _held(book: RuleBook, mode: Mode, dialect: Dialect) -> str:
    return dialect.present(
        [
            f"CASE WHEN ({sql(rule, dialect.name)}) AND NOT coalesce({_is_exempt(rule)}, FALSE) "
            f"THEN {dialect.text(rule.name)} END"
            for rule in book.rules
            if rule.mode == mode
        ]
    )


def _exempted(book: RuleBook, dialect: Dialect) -> str:
    rules = [
        f"CASE WHEN {_is_exempt(rule)} AND ({sql(rule, dialect.name)}) THEN {dialect.text(rule.name)} END"
        for rule in book.rules
        if rule.mode != "off"
    ]
    # Few users are exempt from anything.
    return f"CASE WHEN exempt_from IS NULL THEN {dialect.present([])} ELSE {dialect.present(rules)} END"


def _is_exempt(rule: Rule) -> str:
    return f"strpos(exempt_from, ',{rule.name},') > 0"
