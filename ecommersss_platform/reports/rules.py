"""The rules on a day: what they flagged, whether that is usual, and how far they are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from ecommersss_platform.days import DAY
from ecommersss_platform.reports.rows import PAST_DAYS, ByDay, Row
from ecommersss_platform.reports.usual import Standing, Usual, usual_share, wilson

MATURE_DAYS = 28
"""Precision and money are of so many mature days with flagged orders, the newest ones."""

_Key = tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """What became of the flagged orders of a rule on some days."""

    fraud: int = 0
    genuine: int = 0
    unknown: int = 0
    saved: Decimal = Decimal(0)
    """Amount of the flagged orders that are fraud, rupiah."""
    genuine_amount: Decimal = Decimal(0)

    @property
    def precision(self) -> float | None:
        known = self.fraud + self.genuine
        return self.fraud / known if known else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return wilson(self.fraud, self.fraud + self.genuine)


@dataclass(frozen=True)
class Rule:
    """A rule of the day, or of the days before."""

    name: str
    mode: str
    flagged: int
    only: int
    """Orders that no other rule flagged."""
    share: float
    """Flagged orders as a share of the day's orders."""
    usual: Usual | None
    past: Sequence[float | None]
    """That share on the days before and, last, on this day; None for days without orders."""
    mature: Judged
    """Of the newest mature days."""
    recent: Judged
    """Of this day and the days before, as far as labels are known."""

    @property
    def standing(self) -> Standing:
        return self.usual.standing(self.share) if self.usual else Standing.UNKNOWN


@dataclass(frozen=True)
class Rules:
    """The rules of a day, active ones first, those that flagged most first."""

    rules: Sequence[Rule]
    mature_days: Sequence[date]
    """The days that precision and money are of; empty if none is old enough."""


def rules_of(day: date, rows: ByDay, orders: Mapping[date, int]) -> Rules:
    """Return the rules that flagged an order on the day or on the days before.

    `orders`: all orders of each day that has any.
    """
    days = [day - PAST_DAYS * DAY + n * DAY for n in range(PAST_DAYS + 1)]
    mature = sorted(it for it in rows if it <= day and any(row["mature"] for row in rows[it]))[-MATURE_DAYS:]
    by_rule: dict[_Key, dict[date, Row]] = defaultdict(dict)
    for some_day in (*days, *mature):
        for row in rows.get(some_day, ()):
            by_rule[row["rule_name"], row["mode"]][some_day] = row
    seen = {key for key, found in by_rule.items() if any(it in found for it in days)}
    found = [_rule(key, by_rule[key], days, mature, orders) for key in seen]
    found.sort(key=lambda rule: (rule.mode != "active", -rule.flagged, rule.name))
    return Rules(found, mature)


def _rule(
    key: _Key,
    rows: Mapping[date, Row],
    days: Sequence[date],
    mature: Sequence[date],
    orders: Mapping[date, int],
) -> Rule:
    *_, day = days
    shares = [_count(rows.get(it), "flagged_orders") / orders[it] if orders.get(it) else None for it in days]
    past = [share for share in shares[:-1] if share is not None]
    return Rule(
        *key,
        flagged=_count(rows.get(day), "flagged_orders"),
        only=_count(rows.get(day), "only_reason_orders"),
        share=shares[-1] or 0.0,
        usual=usual_share(past, orders.get(day, 0)),
        past=shares,
        mature=_judged(rows[it] for it in mature if it in rows),
        recent=_judged(rows[it] for it in days if it in rows),
    )


def _judged(rows: Any) -> Judged:
    result = Judged()
    for row in rows:
        result = Judged(
            result.fraud + _count(row, "labelled_fraud"),
            result.genuine + _count(row, "labelled_genuine"),
            result.unknown + _count(row, "unlabelled"),
            result.saved + (row["fraud_caught_amount"] or 0),
            result.genuine_amount + (row["genuine_flagged_amount"] or 0),
        )
    return result


def _count(row: Row | None, name: str) -> int:
    # DuckDB adds integers up as decimals.
    return int(row[name] or 0) if row else 0
