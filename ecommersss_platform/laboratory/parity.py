"""Parity: the reasons that the stream stored with each order, against those that the warehouse computes.

The warehouse has the order's features, the book that decided, the lists and the exemptions as of the order's
position. So both must come to the same reasons, for every order and for ever.

One thing is not known exactly: whether a change of a price or a user that was written around the time of the
decision was committed before it. An order that differs then may be right, and is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.evaluation import REASONS, evaluated_sql
from ecommersss_platform.warehouse.audit import day_filter
from streaming.rules import Mode, RuleBook, RuleError
from streaming.rules.sample import REASON, sample_sql

if TYPE_CHECKING:
    from ecommersss_platform.warehouse import Warehouse
    from ecommersss_platform.warehouse.dialect import Dialect

EXAMPLES = 20
"""The number of differing orders that are shown."""
AROUND_SECONDS = 60
"""How long a transaction that changes products or users may take, and the consumer to hear of it."""


@dataclass(frozen=True)
class Difference:
    """An order for which the stream stored other reasons than the warehouse computes, each as `stored`."""

    order_id: int
    day: date
    topic_position: int
    rules_version: str
    stored: str
    """The verdict and the rules that held, as in "fraud; active: wallet_limit; shadow: rapid_orders"."""
    recomputed: str


@dataclass
class Parity:
    """The comparison of the orders of some days. Each order is in exactly one of the counts."""

    days: Days
    compared_by_day: Counter[date] = field(default_factory=Counter)
    book_not_kept: int = 0
    """Orders whose rule book is not kept, because it last decided before books were kept."""
    lists_not_known: int = 0
    """Orders that were loaded before the version of the lists was stored."""
    without_features: int = 0
    """Orders that `silver.order_features` lacks."""
    changed_meanwhile: int = 0
    """Orders that differ, whose product or user was changed within `AROUND_SECONDS` of the decision."""
    unusable: Counter[str] = field(default_factory=Counter)
    """Orders of rule books that cannot be used, by what is wrong with the book."""
    differing: Counter[date] = field(default_factory=Counter)
    """The compared orders that differ, by day."""
    examples: list[Difference] = field(default_factory=list)
    """The first of these in the topic."""

    @property
    def compared(self) -> int:
        return self.compared_by_day.total()

    @property
    def orders(self) -> int:
        apart = self.book_not_kept + self.lists_not_known + self.without_features + self.changed_meanwhile
        return self.compared + apart + self.unusable.total()

    @property
    def differences(self) -> int:
        return self.differing.total()

    @property
    def counts(self) -> dict[str, int]:
        """The compared orders, those that differ, and those that were counted apart, by name."""
        return {
            "compared": self.compared,
            "differences": self.differences,
            "book_not_kept": self.book_not_kept,
            "lists_not_known": self.lists_not_known,
            "without_features": self.without_features,
            "changed_meanwhile": self.changed_meanwhile,
        }

    @property
    def holds(self) -> bool:
        """Whether no order differs, and none was left out that should have been compared."""
        return not (self.differing or self.unusable or self.without_features)

    @property
    def summary(self) -> str:
        """Say in a sentence what was compared, what differs, and what could not be compared."""
        parts = [f"{self.differences} of {self.compared} orders of {self.days} differ"]
        apart = {
            "have no features yet: materialise their days": self.without_features,
            "were decided by a rule book that is not kept": self.book_not_kept,
            "were loaded before the version of the lists was stored": self.lists_not_known,
            "differ, but were decided while their product or user was changed": self.changed_meanwhile,
            **self.unusable,
        }
        parts += [f"{orders} more {why}" for why, orders in apart.items() if orders]
        return "; ".join(parts)


def compare_verdicts(warehouse: Warehouse, days: Days) -> Parity:
    """Compare the stored reasons of the orders of these days with those computed in the warehouse.

    One query for each rule book that decided, however many orders.
    """
    parity = Parity(days)
    decided = warehouse.query(_BOOKS.format(days=day_filter(days))).to_pylist()
    texts = _kept_texts(warehouse, [row["rules_version"] for row in decided])
    for row in decided:
        known, version = row["known"], row["rules_version"]
        if version not in texts:
            parity.book_not_kept += row["orders"]
            continue
        parity.lists_not_known += row["orders"] - known
        if not known:
            continue
        try:
            book = _read_book(version, texts[version])
        except RuleError as error:
            parity.unusable[f"have a rule book that cannot be used: {error}"] += known
            continue
        own_days = Days.between(row["first_day"], row["last_day"])
        recomputed = recomputed_sql(book, own_days, warehouse.dialect)
        counts = warehouse.query(_COUNTS.format(recomputed=recomputed)).to_pylist()
        parity.compared_by_day.update({of_day["day"]: of_day["orders"] for of_day in counts})
        parity.without_features += known - sum(of_day["orders"] for of_day in counts)
        if any(of_day["differing"] for of_day in counts):
            _add_differences(parity, warehouse, own_days, recomputed)
    parity.examples = sorted(parity.examples, key=lambda one: one.topic_position)[:EXAMPLES]
    return parity


def recomputed_sql(book: RuleBook, days: Days, dialect: Dialect) -> str:
    """Write the SELECT of the orders that this book decided, with `differs`: whether the reasons do.

    The random sample is in `review`, as the stream stores it.
    """
    evaluated = evaluated_sql(book, days, dialect)
    review = "review"
    if book.sample:
        picked = f"array_length(fraud) = 0 AND {sample_sql('id', book.sample, dialect.name)}"
        sampled = dialect.present([f"CASE WHEN {picked} THEN {dialect.text(REASON)} END"])
        review = f"array_concat(review, {sampled})"
    # A NULL array is one that was loaded before the column was, or an empty one on BigQuery.
    differs = [
        f"coalesce(array_to_string({name}_reasons, ','), '') <> array_to_string({name}, ',')"
        for name in REASONS.values()
    ]
    columns = ", ".join(["id", "partition_date", "topic_position", "rules_version", "is_fraud"])
    stored = ", ".join(f"{name}_reasons" for name in REASONS.values())
    return (
        f"SELECT *, is_fraud <> (array_length(fraud) > 0) OR {' OR '.join(differs)} AS differs "  # noqa: S608
        f"FROM (SELECT {columns}, {stored}, fraud, shadow, {review} AS review "
        f"FROM ({evaluated}) AS evaluated "
        f"WHERE rules_version = {dialect.text(book.version)} AND lists_version IS NOT NULL) AS recomputed"
    )


_BOOKS = """
    SELECT rules_version, min(partition_date) AS first_day, max(partition_date) AS last_day,
           count(*) AS orders, count(lists_version) AS known
    FROM silver.fact_orders WHERE {days} GROUP BY 1 ORDER BY 2, 1
"""
_COUNTS = """
    SELECT partition_date AS day, count(*) AS orders, count(CASE WHEN differs THEN 1 END) AS differing
    FROM ({recomputed}) AS compared GROUP BY 1
"""
# The first version of a product or user is no change: an order needs both.
_DIFFERING = """
    SELECT *, id IN (
        SELECT facts.order_id FROM silver.fact_orders AS facts
        INNER JOIN (
            SELECT product_id, recorded_at,
                   row_number() OVER (PARTITION BY product_id ORDER BY version) AS number
            FROM bronze.stg_product_versions
        ) AS versions ON facts.product_id = versions.product_id
        WHERE {days} AND versions.number > 1 AND {around}
        UNION ALL
        SELECT facts.order_id FROM silver.fact_orders AS facts
        INNER JOIN (
            SELECT user_id, recorded_at, row_number() OVER (PARTITION BY user_id ORDER BY version) AS number
            FROM bronze.stg_user_versions
        ) AS versions ON facts.user_id = versions.user_id
        WHERE {days} AND versions.number > 1 AND {around}
    ) AS changed_meanwhile
    FROM ({recomputed}) AS compared WHERE differs
"""
_BY_DAY = """
    SELECT partition_date AS day, count(*) AS orders, count(CASE WHEN changed_meanwhile THEN 1 END) AS apart
    FROM ({differing}) AS differing GROUP BY 1 ORDER BY 1
"""
_EXAMPLES = """
    SELECT * FROM ({differing}) AS differing WHERE NOT changed_meanwhile
    ORDER BY topic_position LIMIT {most}
"""


def _kept_texts(warehouse: Warehouse, versions: list[str]) -> Mapping[str, str]:
    wanted = ", ".join(warehouse.dialect.text(version) for version in versions) or "''"
    rows = warehouse.query(
        f"SELECT rules_version, book_text FROM bronze.stg_rule_books WHERE rules_version IN ({wanted})"  # noqa: S608
    )
    return {row["rules_version"]: row["book_text"] for row in rows.to_pylist()}


def _read_book(version: str, text: str) -> RuleBook:
    """Return the kept book. Raises `RuleError` if it is not accepted, or not the one that decided."""
    book = RuleBook.parse(text, f"kept rule book {version}")
    if book.version != version:
        raise RuleError("its text was changed in the warehouse", book.name)
    return book


def _add_differences(parity: Parity, warehouse: Warehouse, days: Days, recomputed: str) -> None:
    """Count the orders that differ, and add the first of them to the examples."""
    decided, interval = "facts.flagged_at", f"INTERVAL {AROUND_SECONDS} SECOND"
    differing = _DIFFERING.format(
        days=day_filter(days, "facts.partition_date"),
        around=f"versions.recorded_at BETWEEN {decided} - {interval} AND {decided} + {interval}",
        recomputed=recomputed,
    )
    for counts in warehouse.query(_BY_DAY.format(differing=differing)).to_pylist():
        parity.compared_by_day[counts["day"]] -= counts["apart"]
        parity.changed_meanwhile += counts["apart"]
        if differs := counts["orders"] - counts["apart"]:
            parity.differing[counts["day"]] += differs
    parity.examples += _examples(warehouse, differing)


def _examples(warehouse: Warehouse, differing: str) -> list[Difference]:
    rows = warehouse.query(_EXAMPLES.format(differing=differing, most=EXAMPLES)).to_pylist()
    return [
        Difference(
            order_id=row["id"],
            day=row["partition_date"],
            topic_position=row["topic_position"],
            rules_version=row["rules_version"],
            stored=_verdict(
                row["is_fraud"], {mode: row[f"{name}_reasons"] for mode, name in REASONS.items()}
            ),
            recomputed=_verdict(bool(row["fraud"]), {mode: row[name] for mode, name in REASONS.items()}),
        )
        for row in rows
    ]


def _verdict(is_fraud: bool, held: Mapping[Mode, Sequence[str] | None]) -> str:
    rules = [f"{mode}: {', '.join(names)}" for mode, names in held.items() if names]
    return "; ".join(["fraud" if is_fraud else "genuine", *rules])
