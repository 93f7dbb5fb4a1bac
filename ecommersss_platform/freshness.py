"""Freshness: is the newest closed business day in every table, once it has had time to load?

Only decisions are here. The checks of the UI take the facts from Dagster (`checks.py`), and the monitor takes
them from Dagster's tables, so that it also notices a day when no daemon runs (`alerts/late_tables.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from ecommersss_platform.days import DAY, Days
from streaming.business_days import JAKARTA, business_day

DUE = timedelta(hours=4)
"""How long after midnight (Asia/Jakarta) a closed day may still be missing. It is loaded at 03:00."""

ORDERS = "raw/orders"
"""The table whose load of a day all that is made from it must follow."""


@dataclass(frozen=True)
class Expected:
    """A table that must hold each closed day.

    `key`: of its asset, as the UI writes it. `by_day`: it has a partition for each day; otherwise it is built
    as a whole. `due`: how long after midnight the day before may be missing.
    """

    key: str
    by_day: bool
    due: timedelta = DUE

    @property
    def is_raw(self) -> bool:
        return self.key.startswith("raw/")

    @property
    def is_report(self) -> bool:
        """Whether it is made of tables that say themselves when they are late.

        It is not made again, and says nothing, when a run after the end of the day finds the same rows.
        """
        return self.key.startswith("reports/")


BY_DAY = (
    *("raw/users", "raw/products", ORDERS, "raw/shipments", "raw/disputes", "raw/verdicts"),
    *("raw/rule_books", "raw/user_list_events", "raw/rule_exemption_events"),
    *("silver/fact_orders", "silver/order_features", "silver/order_labels"),
    *("gold/daily_fraud_summary", "gold/rule_performance", "reports/fraud_report"),
)
WHOLE = (
    *("silver/dim_users", "silver/dim_products", "silver/dim_users_history", "silver/dim_products_history"),
    *("silver/fact_disputes", "silver/fact_shipments", "silver/order_outcomes"),
    *("gold/users_and_blacklist", "gold/most_fraudulent_users", "gold/payment_fraud_critical_time"),
    "gold/rule_totals",
    *("gold/product_and_users", "gold/product_and_payment_methods"),
    *("gold/customer_lifetime_value", "gold/cohorts_by_signup_month", "gold/product_freshness"),
    "gold/fulfilment",
)
# Bronze holds views, which are never older than raw. The block list says nothing when a run changed nothing.
EXPECTED: Sequence[Expected] = [
    *(Expected(key, by_day=True) for key in BY_DAY),
    *(Expected(key, by_day=False) for key in WHOLE),
]
"""Every table that must hold each closed day. A new one is a line here, and then has its check."""


def newest_due_day(now: datetime, due: timedelta = DUE) -> date:
    """Return the newest closed business day that should have been loaded by `now`."""
    return business_day(now - due) - DAY


def due_at(day: date, due: timedelta = DUE) -> datetime:
    """Return the instant from which a business day should be in a table."""
    return datetime.combine(day + DAY, time.min, JAKARTA) + due


def missing_days(first: date, newest_due: date, present: Collection[str]) -> list[date]:
    """Return the due days, from the first on, that are not among the present partition keys."""
    if newest_due < first:
        return []
    return [day for day in Days.between(first, newest_due) if day.isoformat() not in present]


def lateness(expected: Expected, day: date, updated: datetime | None, loaded: datetime | None) -> str | None:
    """Return why a table lacks a closed day that is due, as a sentence; None if it has it.

    `updated`: when its partition of the day, or the whole table, was last built or found unchanged. `loaded`:
    when the orders of the day were last loaded before the day was due. What was built while the day was not
    over, or before its orders were loaded, lacks some of them.
    """
    if updated is None:
        what = f"{day} is not materialised" if expected.by_day else "it was never built"
        return f"{what}: materialise {'it' if expected.by_day else day}"
    if expected.is_report:
        return None
    closed = Days.between(day, day).end_instant
    begun = f"{day} was" if expected.by_day else "it was"
    if updated < closed:
        return f"{begun} last built at {_local(updated)}, before {day} was over: materialise {day}"
    if loaded is not None and not expected.is_raw and updated < loaded:
        return (
            f"{begun} last built at {_local(updated)}, before the orders of {day} were loaded at"
            f" {_local(loaded)}: materialise {day}"
        )
    return None


def _local(instant: datetime) -> str:
    return f"{instant.astimezone(JAKARTA):%Y-%m-%d %H:%M}"
