"""The figures of a day, from its rows: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from statistics import median
from typing import Any

from ecommersss_platform.days import DAY, Days
from ecommersss_platform.laboratory.parity import Difference, Parity
from ecommersss_platform.reconciliation import Total, differences
from ecommersss_platform.reports import words
from ecommersss_platform.reports.backtests import Backtest, backtests_before
from ecommersss_platform.reports.rows import PAST_DAYS, PAST_HOURS_DAYS, Row, Rows
from ecommersss_platform.reports.rules import Rule, rules_of, sample_of
from ecommersss_platform.reports.usual import (
    Standing,
    Usual,
    usual_amount,
    usual_count,
    usual_share,
)
from streaming.business_days import business_day
from streaming.database.reviews import QueueOfDay

_FEWEST_WEEKDAYS = 3
_FEWEST_SHOWN = 8
"""Days of the trend."""
_MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Number:
    """A number of the day beside its usual range."""

    name: str
    value: float
    write: Callable[[float], str]
    usual: Usual | None
    weekdays: Sequence[float] = ()
    """The values of the same weekday in the same time."""

    @property
    def standing(self) -> Standing:
        """How the number compares; what the weekday explains is usual."""
        found = self.usual.standing(self.value) if self.usual else Standing.UNKNOWN
        return Standing.USUAL if found is not Standing.UNKNOWN and self.like_the_weekday else found

    @property
    def like_the_weekday(self) -> bool:
        """Whether it is within what the same weekdays had, if these are enough to tell."""
        known = len(self.weekdays) >= _FEWEST_WEEKDAYS
        return known and min(self.weekdays) <= self.value <= max(self.weekdays)

    @property
    def text(self) -> str:
        return self.write(self.value)

    @property
    def range(self) -> str:
        """The usual range in words; empty if it is not known."""
        return words.between(self.usual.low, self.usual.high, self.write) if self.usual else ""


@dataclass(frozen=True)
class Hour:
    """An hour of the day, 0 to 23 in Jakarta. `usual`: the median of the days before; None without any."""

    hour: int
    orders: int
    flagged: int
    usual: float | None


@dataclass(frozen=True)
class Method:
    """A payment method; None for the rare ones together, of which there are `methods`."""

    name: str | None
    methods: int
    orders: int
    flagged: int
    flagged_amount: Decimal

    @property
    def share(self) -> float:
        return self.flagged / self.orders if self.orders else 0.0


@dataclass(frozen=True)
class Disputes:
    """How many disputes of a kind were opened, won and lost on the day, and the amounts, rupiah."""

    kind: str = ""
    opened: int = 0
    opened_amount: Decimal = Decimal(0)
    lost: int = 0
    lost_amount: Decimal = Decimal(0)
    won: int = 0
    won_amount: Decimal = Decimal(0)


@dataclass(frozen=True)
class Statement:
    """A sentence about how far the page can be trusted. `good`: nothing needs to be done."""

    text: str
    good: bool


@dataclass(frozen=True)
class Compared:
    """How many of the day's orders the warehouse decided again, and for how many otherwise than the stream.

    `examples`: the first of those.
    """

    orders: int
    differing: int
    examples: Sequence[Difference]


@dataclass(frozen=True)
class Trend:
    """The flagged share of the day, last, and of the days before; None for days without orders."""

    days: Sequence[date]
    shares: Sequence[float | None]
    usual: Usual | None


@dataclass(frozen=True)
class Figures:
    """Everything that the page of a day says."""

    day: date
    built_at: datetime
    loaded_at: datetime | None
    """When the orders of the day were last loaded; None: never."""
    numbers: Sequence[Number]
    """Empty if there were no orders."""
    trend: Trend
    hours: Sequence[Hour]
    methods: Sequence[Method]
    rules: Sequence[Rule]
    sample: Row | None
    """The row of `gold.rule_totals` with the fraud that passed, estimated from the random sample."""
    users: Sequence[Row]
    products: Sequence[Row]
    disputes: Sequence[Disputes]
    """By kind; the last one is of all kinds."""
    usual_opened: Usual | None
    late_orders: int | None
    """None: the day was built before late orders were counted."""
    rejected: Sequence[Row]
    queue: QueueOfDay
    """The orders that passed and waited for a person at the end of the day."""
    queue_by_reason: Sequence[QueueOfDay]
    backtests: Sequence[Backtest]
    """The last ones that were made by the end of the day."""
    parity: Compared
    trust: Sequence[Statement]

    @property
    def over(self) -> bool:
        """Whether the day had ended when the page was built."""
        return business_day(self.built_at) > self.day

    @property
    def orders(self) -> int:
        return int(self.numbers[0].value) if self.numbers else 0

    @property
    def measures(self) -> dict[str, float]:
        """What the UI plots over days, in orders, lines, disputes and rupiah, without what is unknown."""
        named = {number.name: number.value for number in self.numbers}
        known = {
            "orders": self.orders,
            "amount": named.get("Value of all orders", 0.0),
            "flagged_percentage": round(100 * named.get("Flagged as fraud", 0.0), 2),
            "flagged_amount": named.get("Value flagged", 0.0),
            "late_orders": self.late_orders,
            "rejected_lines": sum(int(row["lines"]) for row in self.rejected),
            "orders_to_review": self.queue.orders,
            "amount_to_review": float(self.queue.amount),
            "differing_verdicts": self.parity.differing if self.parity.orders else None,
            "disputes_opened": self.disputes[-1].opened,
            "disputes_lost_amount": float(self.disputes[-1].lost_amount),
        }
        return {name: value for name, value in known.items() if value is not None}


def figures_of(day: date, rows: Rows, built_at: datetime) -> Figures:
    """Return the figures of one of the days that the rows were read for."""
    days = [day - PAST_DAYS * DAY + n * DAY for n in range(PAST_DAYS + 1)]
    orders = {it: int(rows.summaries[it]["total_orders"]) for it in rows.summaries}
    summary = rows.summaries.get(day)
    over = business_day(built_at) > day
    late = summary["late_orders"] if summary else None
    queues = [queue for queue in rows.review if queue.day == day]
    nothing = QueueOfDay(day, None, 0, Decimal(0), None, 0, 0)
    return Figures(
        day=day,
        built_at=built_at,
        loaded_at=rows.loaded_at.get(day),
        numbers=_numbers(day, days[:-1], rows.summaries, over=over) if summary else [],
        trend=_trend(days, rows.summaries, orders),
        hours=_hours(day, rows) if summary else [],
        methods=[_method(row) for row in rows.methods.get(day, ())],
        rules=rules_of(day, rows.rules, rows.totals, orders),
        sample=sample_of(rows.totals),
        users=[{**row, "list": rows.listed.get(row["user_id"])} for row in rows.users.get(day, ())],
        products=rows.products.get(day, ()),
        disputes=_disputes(rows.disputes.get(day, ())),
        usual_opened=_usual_opened(days[:-1], rows),
        late_orders=None if late is None else int(late),
        rejected=rows.rejected.get(day, ()),
        queue=next((queue for queue in queues if queue.reason is None), nothing),
        queue_by_reason=[queue for queue in queues if queue.reason is not None],
        backtests=backtests_before(rows.backtests, Days.between(day, day).end_instant),
        parity=_parity(day, rows.parity),
        trust=_trust(day, days, rows, orders.get(day, 0), over=over),
    )


def _numbers(day: date, past: Sequence[date], summaries: Mapping[date, Row], *, over: bool) -> list[Number]:
    """Return the five numbers. While the day lasts, only the share has a usual range."""
    before = [it for it in past if it in summaries]
    weekdays = [it for it in before if it.weekday() == day.weekday()]
    orders = int(summaries[day]["total_orders"])

    def number(
        name: str,
        value: Callable[[Row], Any],
        write: Callable[[Any], str],
        usual: Callable[[list[float]], Usual | None],
    ) -> Number:
        known = [float(value(summaries[it])) for it in before] if over or write is words.percent else []
        same = [float(value(summaries[it])) for it in weekdays] if known else []
        return Number(name, float(value(summaries[day])), write, usual(known), same)

    return [
        number("Orders", lambda it: it["total_orders"], words.count, usual_count),
        number("Value of all orders", lambda it: it["total_amount"], words.rupiah, usual_amount),
        number(
            "Flagged as fraud",
            lambda it: it["fraud_orders"] / it["total_orders"],
            words.percent,
            lambda values: usual_share(values, orders),
        ),
        number("Value flagged", lambda it: it["fraud_amount"], words.rupiah, usual_amount),
        number("Users flagged", lambda it: it["fraud_users"], words.count, usual_count),
    ]


def _trend(days: Sequence[date], summaries: Mapping[date, Row], orders: Mapping[date, int]) -> Trend:
    shares = [summaries[it]["fraud_orders"] / orders[it] if orders.get(it) else None for it in days]
    *_, day = days
    past = [share for share in shares[:-1] if share is not None]
    # A young platform begins with its first orders, a week before the day at the latest.
    first = next((place for place, share in enumerate(shares) if share is not None), 0)
    first = min(first, len(days) - _FEWEST_SHOWN)
    return Trend(days[first:], shares[first:], usual_share(past, orders.get(day, 0)))


def _hours(day: date, rows: Rows) -> list[Hour]:
    past = [day - n * DAY for n in range(1, PAST_HOURS_DAYS + 1)]
    by_hour = {it: {row["hour"]: row for row in rows.hours.get(it, ())} for it in (day, *past)}
    known = [by_hour[it] for it in past if by_hour[it]]
    return [
        Hour(
            hour,
            _in_hour(by_hour[day], hour, "orders"),
            _in_hour(by_hour[day], hour, "flagged"),
            median(_in_hour(it, hour, "flagged") for it in known) if known else None,
        )
        for hour in range(24)
    ]


def _in_hour(hours: Mapping[int, Row], hour: int, name: str) -> int:
    return int(hours[hour][name]) if hour in hours else 0


def _method(row: Row) -> Method:
    return Method(
        row["method"],
        int(row["methods"]),
        int(row["orders"]),
        int(row["flagged"]),
        row["flagged_amount"] or Decimal(0),
    )


def _disputes(rows: Sequence[Row]) -> list[Disputes]:
    found: dict[str, dict[str, Any]] = {}
    every: dict[str, Any] = {}
    for row in sorted(rows, key=lambda it: str(it["kind"])):
        for figures in (found.setdefault(row["kind"], {}), every):
            event = row["event"]
            figures[event] = figures.get(event, 0) + int(row["disputes"])
            figures[f"{event}_amount"] = figures.get(f"{event}_amount", 0) + row["amount"]
    return [*(Disputes(kind, **figures) for kind, figures in found.items()), Disputes(**every)]


def _parity(day: date, found: Parity) -> Compared:
    examples = [example for example in found.examples if example.day == day]
    return Compared(found.compared_by_day[day], found.differing[day], examples[:_MOST_EXAMPLES])


def _usual_opened(past: Sequence[date], rows: Rows) -> Usual | None:
    """Return the usual number of disputes opened on a day with orders."""
    return usual_count(
        [
            float(sum(row["disputes"] for row in rows.disputes.get(it, ()) if row["event"] == "opened"))
            for it in past
            if it in rows.summaries
        ]
    )


def _trust(day: date, days: Sequence[date], rows: Rows, facts: int, *, over: bool) -> list[Statement]:
    """Return whether PostgreSQL, raw and the facts agree, how fresh they are, and which days are missing."""
    loaded_at = rows.loaded_at.get(day)
    if loaded_at is None:
        return [Statement("The orders of this day were never loaded.", good=False)]
    source, target = rows.compared.source.get(day, Total()), rows.compared.target.get(day, Total())
    if wrong := differences({day: source}, {day: target}):
        agreement = Statement(f"The day does not reconcile. {wrong[0]}.", good=False)
    elif target.rows != facts:
        text = f"raw.orders has {words.plural(target.rows, 'order')}, silver.fact_orders {facts:,}."
        agreement = Statement(text, good=False)
    else:
        text = f"PostgreSQL, raw.orders and silver.fact_orders agree on {words.plural(facts, 'order')}"
        agreement = Statement(f"{text} and {words.rupiah(target.money)}.", good=True)
    freshness = Statement(f"Loaded at {words.moment(loaded_at)}.", good=True)
    if since := rows.compared.late.get(day, 0):
        text = f"Loaded at {words.moment(loaded_at)}; {words.plural(since, 'order')} came since."
        freshness = Statement(text, good=not over)
    missing = [it for it in days[:-1] if min(rows.loaded_at) < it and it not in rows.loaded_at]
    if missing:
        names = ", ".join(words.short_day(it) for it in missing[:5]) + (" ..." if len(missing) > 5 else "")
        known = Statement(f"Not loaded among the {PAST_DAYS} days before: {names}.", good=False)
        return [agreement, freshness, known]
    return [agreement, freshness]
