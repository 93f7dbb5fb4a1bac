"""What the reports of a range of days are made of: few rows, summed in the warehouse and in PostgreSQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.days import DAY, Days
from ecommersss_platform.laboratory.parity import Parity, compare_verdicts
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.reconciliation import Comparison, compare
from ecommersss_platform.warehouse import Warehouse
from ecommersss_platform.warehouse.audit import day_filter
from streaming.business_days import JAKARTA
from streaming.database.reviews import QueueOfDay, queues_of_days
from streaming.roles import Role

PAST_DAYS = 28
"""The number of earlier days that a day is compared with."""
PAST_HOURS_DAYS = 7
"""The number of earlier days that the hours of a day are compared with."""
MOST_METHODS = 8
"""The payment methods with the most orders that have a row of their own. Any text may be one."""
MOST_USERS = MOST_PRODUCTS = 10

Row = Mapping[str, Any]
ByDay = Mapping[date, Sequence[Row]]


@dataclass(frozen=True)
class Rows:
    """The rows of a range of days, and of the days before that they are compared with, by day."""

    summaries: Mapping[date, Row]
    """`gold.daily_fraud_summary`; a day without orders has none."""
    hours: ByDay
    methods: ByDay
    rules: ByDay
    """`gold.rule_performance`, with the versions of the rule book added up."""
    totals: Sequence[Row]
    """`gold.rule_totals`."""
    users: ByDay
    products: ByDay
    disputes: ByDay
    """How many disputes of a kind were opened, won or lost on a day (`event`)."""
    loaded_at: Mapping[date, datetime]
    """When each day of `raw.orders` was last loaded."""
    compared: Comparison
    parity: Parity
    rejected: ByDay
    review: Sequence[QueueOfDay]
    backtests: Sequence[Row]
    """The backtests that are kept, newest first."""
    listed: Mapping[int, str]
    """The list, allow or block, of each user who is on one."""


def read_rows(warehouse: Warehouse, postgres: PostgresResource, days: Days, backtests: Sequence[Row]) -> Rows:
    """Read the rows of these days. Memory grows with their number, but not with that of the orders.

    `backtests`: those that are kept. Raises `TableNotFound` if nothing was materialised yet.
    """
    past = Days(days.first - PAST_DAYS * DAY, days.end)
    summaries, loads = summary_sql(past), load_sql(past)
    users = by_day(warehouse.query(users_sql(days)).to_pylist())
    return Rows(
        summaries={row["business_day"]: row for row in warehouse.query(summaries).to_pylist()},
        hours=by_day(warehouse.query(hours_sql(days)).to_pylist()),
        methods=by_day(warehouse.query(methods_sql(days)).to_pylist()),
        rules=by_day(warehouse.query(rules_sql(past)).to_pylist()),
        totals=warehouse.query("SELECT * FROM gold.rule_totals").to_pylist(),
        users=users,
        products=by_day(warehouse.query(products_sql(days)).to_pylist()),
        disputes=by_day(warehouse.query(disputes_sql(past)).to_pylist()),
        loaded_at={row["day"]: row["loaded_at"] for row in warehouse.query(loads).to_pylist()},
        backtests=backtests,
        compared=compare(ORDERS, days, postgres, warehouse),
        parity=compare_verdicts(warehouse, days),
        **_operational(postgres, days, {row["user_id"] for rows in users.values() for row in rows}),
    )


def by_day(rows: Iterable[Row]) -> dict[date, list[Row]]:
    """Group rows by their `day`."""
    grouped: dict[date, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["day"]].append(row)
    return dict(grouped)


def summary_sql(days: Days) -> str:
    """Write the SELECT of the summary of each day."""
    return f"SELECT * FROM gold.daily_fraud_summary WHERE {day_filter(days, 'business_day')}"  # noqa: S608


def load_sql(days: Days) -> str:
    """Write the SELECT of when each day was last loaded."""
    return (
        "SELECT partition_date AS day, max(loaded_at) AS loaded_at FROM raw.load_log "  # noqa: S608
        f"WHERE table_name = 'raw.orders' AND {day_filter(days)} GROUP BY 1"
    )


def hours_sql(days: Days) -> str:
    """Write the SELECT of the orders of each hour of these days and of those they are compared with."""
    past = Days(days.first - PAST_HOURS_DAYS * DAY, days.end)
    return (
        "SELECT partition_date AS day, local_hour AS hour, count(*) AS orders, "  # noqa: S608
        "count(CASE WHEN is_fraud THEN 1 END) AS flagged "
        f"FROM silver.fact_orders WHERE {day_filter(past)} GROUP BY 1, 2"
    )


def methods_sql(days: Days) -> str:
    """Write the SELECT of the orders by payment method; the rare methods together have NULL as theirs."""
    counted = (
        "SELECT partition_date AS day, payment_method, count(*) AS orders, "  # noqa: S608
        "count(CASE WHEN is_fraud THEN 1 END) AS flagged, "
        "sum(CASE WHEN is_fraud THEN amount END) AS flagged_amount "
        f"FROM silver.fact_orders WHERE {day_filter(days)} GROUP BY 1, 2"
    )
    ranked = (
        "SELECT *, row_number() OVER (PARTITION BY day ORDER BY orders DESC, payment_method) AS place "  # noqa: S608
        f"FROM ({counted}) AS counted"
    )
    return (
        f"SELECT day, CASE WHEN place <= {MOST_METHODS} THEN payment_method END AS method, "  # noqa: S608
        "sum(orders) AS orders, sum(flagged) AS flagged, sum(flagged_amount) AS flagged_amount, "
        f"count(*) AS methods FROM ({ranked}) AS ranked GROUP BY 1, 2 ORDER BY 1, 4 DESC, 3 DESC, 2"
    )


def rules_sql(days: Days) -> str:
    """Write the SELECT of what each rule flagged on each day, over all versions of the rule book."""
    names = ("flagged_orders", "only_reason_orders", "labelled_fraud", "labelled_genuine", "unlabelled")
    sums = ", ".join(f"sum({name}) AS {name}" for name in names)
    return (
        f"SELECT business_day AS day, rule_name, mode, {sums} "  # noqa: S608
        f"FROM gold.rule_performance WHERE {day_filter(days, 'business_day')} GROUP BY 1, 2, 3"
    )


def users_sql(days: Days) -> str:
    """Write the SELECT of the users with the most flagged money of each day; who is blocked comes last."""
    flagged = (
        "SELECT partition_date AS day, user_id, count(*) AS flagged, sum(amount) AS flagged_amount "  # noqa: S608
        f"FROM silver.fact_orders WHERE {day_filter(days)} AND is_fraud GROUP BY 1, 2"
    )
    blocked_last = "CASE WHEN users.status = 'Blacklist' THEN 1 ELSE 0 END"
    ranked = (
        "SELECT flagged.*, users.username, users.masked_email, users.status, users.fraud_orders, "  # noqa: S608
        "users.total_orders, users.cleared_orders, row_number() OVER (PARTITION BY flagged.day "
        f"ORDER BY {blocked_last}, flagged.flagged_amount DESC, flagged.user_id) AS place "
        f"FROM ({flagged}) AS flagged "
        "LEFT JOIN gold.users_and_blacklist AS users ON flagged.user_id = users.user_id"
    )
    return f"SELECT * FROM ({ranked}) AS ranked WHERE place <= {MOST_USERS} ORDER BY day, place"  # noqa: S608


def products_sql(days: Days) -> str:
    """Write the SELECT of the products with the most flagged money of each day."""
    flagged = (
        "SELECT partition_date AS day, product_id, count(*) AS flagged, sum(amount) AS flagged_amount, "  # noqa: S608
        "count(DISTINCT user_id) AS users "
        f"FROM silver.fact_orders WHERE {day_filter(days)} AND is_fraud GROUP BY 1, 2"
    )
    ranked = (
        "SELECT *, row_number() OVER (PARTITION BY day ORDER BY flagged_amount DESC, product_id) AS place "  # noqa: S608
        f"FROM ({flagged}) AS flagged"
    )
    return (
        "SELECT ranked.*, products.product_name, products.category "  # noqa: S608
        f"FROM ({ranked}) AS ranked "
        "LEFT JOIN silver.dim_products AS products ON ranked.product_id = products.product_id "
        f"WHERE ranked.place <= {MOST_PRODUCTS} ORDER BY ranked.day, ranked.place"
    )


def disputes_sql(days: Days) -> str:
    """Write the SELECT of the disputes that were opened, won and lost on each day, by kind."""
    figures = "count(*) AS disputes, sum(amount) AS amount FROM silver.fact_disputes"
    return (
        f"SELECT opened_on AS day, kind, 'opened' AS event, {figures} "
        f"WHERE {day_filter(days, 'opened_on')} GROUP BY 1, 2 "
        f"UNION ALL SELECT decided_on AS day, kind, outcome AS event, {figures} "
        f"WHERE {day_filter(days, 'decided_on')} GROUP BY 1, 2, 3"
    )


_REJECTED = f"""
    SELECT (rejected_at AT TIME ZONE '{JAKARTA}')::date AS day, reason, count(*) AS lines,
           count(*) FILTER (WHERE retried_at IS NOT NULL) AS retried
    FROM rejected_orders WHERE rejected_at >= %(start)s AND rejected_at < %(end)s
    GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
"""  # noqa: S608
_LISTED = """
    SELECT user_id, min(list) FROM user_lists
    WHERE removed_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AND user_id = ANY(%(users)s)
    GROUP BY 1
"""
"""Allow comes before block, as it does when an order is decided."""


def _operational(postgres: PostgresResource, days: Days, users: set[int]) -> dict[str, Any]:
    """Return `rejected`, `review` and `listed`, which are PostgreSQL's."""
    with postgres.connect("ecommersss report", Role.READER) as connection, connection.cursor() as cursor:
        cursor.execute(_REJECTED, {"start": days.start_instant, "end": days.end_instant})
        names = ("day", "reason", "lines", "retried")
        rejected = by_day(dict(zip(names, row, strict=True)) for row in cursor.fetchall())
        cursor.execute(_LISTED, {"users": sorted(users)})
        listed = dict(cursor.fetchall())
        return {"rejected": rejected, "listed": listed, "review": queues_of_days(connection, list(days))}
