"""The rules on a day: what they flagged, whether that is usual, and how far they are right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from ecommersss_platform.days import DAY
from ecommersss_platform.reports.rows import PAST_DAYS, ByDay, Row
from ecommersss_platform.reports.usual import Standing, Usual, usual_share
from streaming.rules.sample import REASON


@dataclass(frozen=True)
class Rule:
    """A rule that flagged an order on the day, or on the days before."""

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
    totals: Row | None
    """Its row of `gold.rule_totals` if it was ever judged: precision and money of all mature days."""
    known: Mapping[str, int]
    """Its flagged orders of this day and the days before that are known to be fraud or genuine, or open."""

    @property
    def standing(self) -> Standing:
        return self.usual.standing(self.share) if self.usual else Standing.UNKNOWN


def rules_of(day: date, rows: ByDay, totals: Sequence[Row], orders: Mapping[date, int]) -> list[Rule]:
    """Return the rules of a day: active ones first, and those that flagged most first.

    `orders`: all orders of each day that has any.
    """
    days = [day - PAST_DAYS * DAY + n * DAY for n in range(PAST_DAYS + 1)]
    judged = {(row["rule_name"], row["mode"]): row for row in totals if row["precision"] is not None}
    by_rule: dict[tuple[str, str], dict[date, Row]] = defaultdict(dict)
    for some_day in days:
        for row in rows.get(some_day, ()):
            by_rule[row["rule_name"], row["mode"]][some_day] = row
    found = [_rule(*key, judged.get(key), of_days, days, orders) for key, of_days in by_rule.items()]
    return sorted(found, key=lambda rule: (rule.mode != "active", -rule.flagged, rule.name))


def sample_of(totals: Iterable[Row]) -> Row | None:
    """Return the row of `gold.rule_totals` that says how much fraud passed; None if no sample was decided."""
    rows = (row for row in totals if row["rule_name"] == REASON)
    return next((row for row in rows if row.get("passed_fraud") is not None), None)


def _rule(
    name: str,
    mode: str,
    totals: Row | None,
    rows: Mapping[date, Row],
    days: Sequence[date],
    orders: Mapping[date, int],
) -> Rule:
    *_, day = days
    shares = [_count(rows.get(it), "flagged_orders") / orders[it] if orders.get(it) else None for it in days]
    past = [share for share in shares[:-1] if share is not None]
    labels = {"fraud": "labelled_fraud", "genuine": "labelled_genuine", "open": "unlabelled"}
    return Rule(
        name,
        mode,
        flagged=_count(rows.get(day), "flagged_orders"),
        only=_count(rows.get(day), "only_reason_orders"),
        share=shares[-1] or 0.0,
        usual=usual_share(past, orders.get(day, 0)),
        past=shares,
        totals=totals,
        known={word: sum(_count(row, column) for row in rows.values()) for word, column in labels.items()},
    )


def _count(row: Row | None, name: str) -> int:
    # DuckDB adds integers up as decimals.
    return int(row[name] or 0) if row else 0
