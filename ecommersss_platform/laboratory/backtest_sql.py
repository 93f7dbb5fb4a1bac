"""The queries of a backtest: what the stream stored, and what the candidate book would have decided.

Each streams through the orders once, so that its memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Collection

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.evaluation import evaluated_sql
from ecommersss_platform.warehouse.audit import day_filter
from ecommersss_platform.warehouse.dialect import Dialect
from streaming.rules import Mode, RuleBook
from streaming.rules.sample import REASON

EXAMPLES = 10
"""The number of examples of each change."""
WHOLE_BOOK = ""
"""The `rule_name` of the whole book."""

_ALONE: dict[Mode, str] = {
    "active": "array_length(fraud) = 1",
    "review": "array_length(fraud) = 0 AND array_length(review) = 1",
    "shadow": "array_length(fraud) = 0 AND array_length(shadow) = 1",
}
"""When no other rule of its mode holds, and no active one: as `only_reason_orders` of rule_performance."""


def days_sql(days: Days) -> str:
    """Write the SELECT of the days that have orders: their number, and how many of them have features."""
    orders = f"FROM silver.fact_orders WHERE {day_filter(days)} GROUP BY 1"
    features = f"FROM silver.order_features WHERE {day_filter(days)} GROUP BY 1"
    return (
        "SELECT day, sum(orders) AS orders, sum(features) AS features FROM ("  # noqa: S608
        f"SELECT partition_date AS day, count(*) AS orders, 0 AS features {orders} "
        f"UNION ALL SELECT partition_date AS day, 0 AS orders, count(*) AS features {features}"
        ") AS counted GROUP BY day"
    )


def loads_sql(days: Days) -> str:
    """Write the SELECT of the days whose orders were loaded, if there were any."""
    return (
        "SELECT DISTINCT partition_date AS day FROM raw.load_log "  # noqa: S608
        f"WHERE table_name = 'raw.orders' AND {day_filter(days)}"
    )


def book_sql(book: RuleBook, days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the orders of each day, counted by label and by verdict before and after."""
    columns = "order_id, partition_date, amount, is_fraud, review_reasons"
    return (
        "SELECT facts.partition_date AS day, coalesce(label, 'unknown') AS label, "  # noqa: S608
        "coalesce(is_mature, FALSE) AS is_mature, facts.is_fraud AS held, "
        "coalesce(array_length(fraud) > 0, FALSE) AS holds, NOT facts.is_fraud AND "
        f"coalesce(array_to_string(facts.review_reasons, ',') NOT IN ('', '{REASON}'), FALSE) AS was_review, "
        "coalesce(array_length(fraud) = 0 AND array_length(review) > 0, FALSE) AS is_review, "
        "count(*) AS orders, sum(facts.amount) AS amount "
        f"FROM (SELECT {columns} FROM silver.fact_orders WHERE {day_filter(days)}) AS facts "
        f"LEFT JOIN ({_labels_sql(days)}) AS labels ON facts.order_id = labels.order_id "
        f"LEFT JOIN ({evaluated_sql(book, days, dialect, only_held=True)}) AS evaluated "
        "ON facts.order_id = evaluated.id GROUP BY 1, 2, 3, 4, 5, 6, 7"
    )


def rules_sql(book: RuleBook, days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the orders of each day by rule that held, holds or would hold, counted by label."""
    alone = " ".join(
        f"WHEN rule_name IN ({', '.join(dialect.text(name) for name in names)}) THEN {condition}"
        for mode, condition in _ALONE.items()
        if (names := [rule.name for rule in book.rules if rule.mode == mode])
    )
    exempted = dialect.contains("exempted", "rule_name")
    holds_alone = f"CASE {alone} ELSE FALSE END" if alone else "FALSE"
    return (
        "SELECT partition_date AS day, rule_name, label, is_mature, held, holds, "  # noqa: S608
        f"holds AND {holds_alone} AS holds_alone, {exempted} AS exempted, "
        "count(*) AS orders, sum(amount) AS amount "
        f"FROM ({_pairs_sql(book, days, dialect)}) AS pairs GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
    )


def changes_sql(book: RuleBook, days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the largest orders of each change, of each rule and of the book (`WHOLE_BOOK`)."""
    names = f"array_concat({_names(dialect)}, ['{WHOLE_BOOK}'])"
    changed = (
        f"CASE WHEN rule_name = '{WHOLE_BOOK}' THEN is_fraud <> (array_length(fraud) > 0) "
        "ELSE held <> holds END"
    )
    newly = f"CASE WHEN rule_name = '{WHOLE_BOOK}' THEN NOT is_fraud ELSE holds END"
    return (
        f"SELECT id, rule_name, newly FROM (SELECT id, rule_name, {newly} AS newly, "  # noqa: S608
        f"row_number() OVER (PARTITION BY rule_name, {newly} ORDER BY amount DESC, id) AS place "
        f"FROM ({_pairs_sql(book, days, dialect, names)}) AS pairs WHERE {changed}) AS ranked "
        f"WHERE place <= {EXAMPLES} ORDER BY rule_name, newly, place"
    )


def orders_sql(book: RuleBook, days: Days, dialect: Dialect, ids: Collection[int]) -> str:
    """Write the SELECT of all columns of these orders."""
    wanted = f"WHERE id IN ({', '.join(map(str, ids))})"
    return f"SELECT * FROM ({_labelled_sql(book, days, dialect)}) AS labelled {wanted}"  # noqa: S608


def _labelled_sql(book: RuleBook, days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the orders with a rule that held, holds or would hold, with their labels."""
    return (
        "SELECT evaluated.*, coalesce(labels.label, 'unknown') AS label, "  # noqa: S608
        "coalesce(labels.is_mature, FALSE) AS is_mature "
        f"FROM ({evaluated_sql(book, days, dialect, only_held=True)}) AS evaluated "
        f"LEFT JOIN ({_labels_sql(days)}) AS labels ON evaluated.id = labels.order_id"
    )


def _labels_sql(days: Days) -> str:
    return f"SELECT order_id, label, is_mature FROM silver.order_labels WHERE {day_filter(days)}"  # noqa: S608


def _names(dialect: Dialect) -> str:
    """Write the array of the rules that held before, hold after, or would if the user were not exempt."""
    stored = "fraud_reasons, review_reasons, shadow_reasons"
    return dialect.distinct(f"array_concat({stored}, fraud, review, shadow, exempted)")


def _pairs_sql(book: RuleBook, days: Days, dialect: Dialect, names: str | None = None) -> str:
    """Write the SELECT of each order with each rule that `held` before or `holds` after."""
    held = " OR ".join(
        f"coalesce({dialect.contains(column, 'rule_name')}, FALSE)"
        for column in ("fraud_reasons", "review_reasons", "shadow_reasons")
    )
    holds = " OR ".join(dialect.contains(column, "rule_name") for column in ("fraud", "review", "shadow"))
    labelled = _labelled_sql(book, days, dialect)
    return (
        f"SELECT *, {held} AS held, {holds} AS holds "  # noqa: S608
        f"FROM ({dialect.unnested(labelled, names or _names(dialect), 'rule_name')}) AS named "
        f"WHERE rule_name <> '{REASON}'"
    )
