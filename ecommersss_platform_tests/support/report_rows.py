"""The rows of a report by hand: four weeks of usual days, and a day to report on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from ecommersss_platform.days import DAY, Days
from ecommersss_platform.laboratory.parity import Difference, Parity
from ecommersss_platform.reconciliation import Comparison, Total
from ecommersss_platform.reports.figures import Figures, figures_of
from ecommersss_platform.reports.rows import Rows
from streaming.database.reviews import QueueOfDay

DAY_OF_REPORT = date(2026, 11, 25)
"""A Wednesday."""
NEXT_MORNING = datetime(2026, 11, 25, 20, 2, tzinfo=UTC)
"""03:02 on the day after, in Jakarta."""

HOSTILE = (
    "<script>alert(1)</script>",
    "</svg><img src=x onerror=alert(1)>",
    "\"'><b onmouseover='alert(1)'>",
    "\u202eevil\u202c \u2066x\u2069",
    "\x1b[31m\x00\x07bell",
    "{{ 7 * 7 }}${7*7}",
    "W" * 50,
    "سعر\u200f 💸 ﷽",
)


def summary(day: date, orders: int = 2_000, flagged: int = 20, **values: Any) -> dict[str, Any]:
    """A row of gold.daily_fraud_summary, with a rupiah value of a million an order."""
    return {
        "business_day": day,
        "total_orders": orders,
        "fraud_orders": flagged,
        "total_amount": Decimal(orders) * 1_000_000,
        "fraud_amount": Decimal(flagged) * 10_000_000,
        "fraud_users": flagged,
        "late_orders": 0,
        **values,
    }


def rule(day: date, name: str = "wallet_limit", flagged: int = 10, **values: Any) -> dict[str, Any]:
    """A row of the rules' performance. DuckDB adds integers up as decimals."""
    return {
        "day": day,
        "rule_name": name,
        "mode": "active",
        "flagged_orders": Decimal(flagged),
        "only_reason_orders": Decimal(flagged - 1),
        "labelled_fraud": Decimal(2),
        "labelled_genuine": Decimal(1),
        "unlabelled": Decimal(flagged - 3),
        **values,
    }


def rule_totals(name: str = "wallet_limit", precision: str | None = "0.9000") -> dict[str, Any]:
    """A row of gold.rule_totals. `precision` None: no day of the rule is mature."""
    known = precision is not None
    return {
        "rule_name": name,
        "mode": "active",
        "precision": Decimal(precision) if precision else None,
        "precision_low": Decimal("0.8500") if known else None,
        "precision_high": Decimal("0.9300") if known else None,
        "fraud_caught_amount": Decimal(1_240_000_000) if known else None,
        "labelled_genuine": 28 if known else None,
        "genuine_flagged_amount": Decimal(50_000_000) if known else None,
    }


def report_rows(day: date = DAY_OF_REPORT, past: int = 28, **changed: Any) -> Rows:
    """Rows of a usual day after `past` usual days. `changed`: other values of `Rows`."""
    days = [day - n * DAY for n in range(past + 1)]
    orders = 2_000
    usual = Rows(
        summaries={it: summary(it, orders, 20 + it.day % 3) for it in days},
        hours={
            it: [{"day": it, "hour": hour, "orders": 80, "flagged": hour % 3} for hour in range(24)]
            for it in days[:8]
        },
        methods={
            day: [
                method(day, "Gopay", 900, 12),
                method(day, "Credit Card", 1_000, 8),
                method(day, None, 100, 0, methods=3),
            ]
        },
        rules={it: [rule(it), rule(it, "spend_burst", 3, mode="shadow")] for it in days},
        totals=[],
        users={day: [user(day, 7), user(day, 8, username=None, masked_email=None)]},
        products={day: [product(day, 3)]},
        disputes={
            day: [
                {"day": day, "kind": "fraud", "event": "opened", "disputes": 4, "amount": Decimal(8_000_000)},
                {"day": day, "kind": "fraud", "event": "lost", "disputes": 1, "amount": Decimal(2_000_000)},
            ]
        },
        loaded_at=dict.fromkeys(days, NEXT_MORNING),
        compared=Comparison(*[{day: Total(orders, Decimal(orders) * 1_000_000)}] * 2, {}),
        parity=Parity(Days.between(day, day), Counter({day: orders})),
        rejected={day: [{"day": day, "reason": "unknown_user", "lines": 3, "retried": 2}]},
        review=[
            QueueOfDay(day, None, 12, Decimal(34_500_000), NEXT_MORNING - 5 * DAY, 5, 3),
            QueueOfDay(day, "new_account", 11, Decimal(33_000_000), NEXT_MORNING - 5 * DAY, 4, 2),
            QueueOfDay(day, "random_sample", 1, Decimal(1_500_000), NEXT_MORNING - 2 * DAY, 1, 1),
        ],
        backtests=[backtest(NEXT_MORNING), backtest(NEXT_MORNING - DAY), {"of an earlier": "form"}],
        listed={8: "block"},
    )
    return replace(usual, **changed)


def method(day: date, name: str | None, orders: int, flagged: int, methods: int = 1) -> dict[str, Any]:
    amount = Decimal(flagged) * 10_000_000 if flagged else None
    return {
        "day": day,
        "method": name,
        "methods": methods,
        "orders": Decimal(orders),
        "flagged": Decimal(flagged),
        "flagged_amount": amount,
    }


def user(day: date, user_id: int, **values: Any) -> dict[str, Any]:
    return {
        "day": day,
        "user_id": user_id,
        "flagged": 2,
        "flagged_amount": Decimal("250000000.50"),
        "username": f"user{user_id}",
        "masked_email": "u***@example.com",
        "status": "Watchlist",
        "fraud_orders": 2,
        "total_orders": 9,
        "cleared_orders": 0,
        **values,
    }


def product(day: date, product_id: int, **values: Any) -> dict[str, Any]:
    return {
        "day": day,
        "product_id": product_id,
        "product_name": "Kopi Gayo",
        "category": "Minuman",
        "flagged": 5,
        "users": 4,
        "flagged_amount": Decimal(500_000_000),
        **values,
    }


def backtest(made_at: datetime, name: str = "books/my-rules.yml") -> dict[str, Any]:
    """A kept backtest, in JSON's types."""
    return {
        "candidate": {"name": name, "version": "0123456789abcdef"},
        "from": "2026-10-01",
        "to": "2026-10-31",
        "made_at": made_at.isoformat(),
        "book": {
            "flagged_before": 600,
            "flagged_after": 550,
            "newly_flagged": 25,
            "newly_flagged_amount": 250_000_000.0,
            "no_longer_flagged": 75,
            "no_longer_flagged_amount": 41_000_000.0,
            "before": {"precision": 0.8},
            "after": {"precision": 0.875},
        },
    }


def differing(day: date, *verdicts: str) -> Parity:
    """Return a comparison in which an order for each of these verdicts of the stream differs."""
    examples = [Difference(n, day, n, "book", verdict, "genuine") for n, verdict in enumerate(verdicts, 1)]
    compared, differs = Counter({day: 1_990}), Counter({day: len(verdicts)})
    return Parity(Days.between(day, day), compared, differing=differs, examples=examples)


def report_figures(rows: Rows | None = None, built_at: datetime = NEXT_MORNING, **changed: Any) -> Figures:
    return figures_of(DAY_OF_REPORT, rows or report_rows(**changed), built_at)


def without(rows: Mapping[date, Any], *days: date) -> dict[date, Any]:
    return {day: row for day, row in rows.items() if day not in days}


def hostile_figures() -> Figures:
    """Figures in which every text is hostile."""
    day = DAY_OF_REPORT
    return report_figures(
        methods={day: [method(day, text, 100, 9) for text in HOSTILE]},
        users={day: [user(day, n, username=text, masked_email=text) for n, text in enumerate(HOSTILE, 100)]},
        products={day: [product(day, n, product_name=text, category=text) for n, text in enumerate(HOSTILE)]},
        rules={it: [rule(it, text) for text in HOSTILE] for it in report_rows().rules},
        disputes={
            day: [
                {"day": day, "kind": text, "event": "opened", "disputes": 1, "amount": Decimal(1)}
                for text in HOSTILE
            ]
        },
        rejected={day: [{"day": day, "reason": text, "lines": 1, "retried": 0} for text in HOSTILE]},
        backtests=[backtest(NEXT_MORNING - DAY, text) for text in HOSTILE],
        parity=differing(day, *HOSTILE),
        review=[QueueOfDay(day, text, 1, Decimal(1), NEXT_MORNING, 1, 0) for text in (None, *HOSTILE)],
    )
