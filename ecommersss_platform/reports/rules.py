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
    """The usual share, whatever the rule's mode was; None for the random sample, which the book sets."""
    past: Sequence[float | None]
    """The share in all modes on the days before and, last, on this day; None for days without orders."""
    totals: Row | None
    """Its row of `gold.rule_totals` if it was ever judged: precision and money of all mature days."""
    known: Mapping[str, int]
    """Its flagged orders of this day and the days before that are known to be fraud or genuine, or open."""

    @property
    def standing(self) -> Standing:
        return self.usual.standing(self.past[-1] or 0.0) if self.usual else Standing.UNKNOWN


def rules_of(day: date, rows: ByDay, totals: Sequence[Row], orders: Mapping[date, int]) -> list[Rule]:
    """Return the rules of a day: active ones first, and those that flagged most first.

    A rule whose mode changed is there in the mode of the newest day on which it flagged any, and is compared
    with what it flagged in whatever mode. `orders`: all orders of each day that has any.
    """
    days = [day - PAST_DAYS * DAY + n * DAY for n in range(PAST_DAYS + 1)]
    judged = {(row["rule_name"], row["mode"]): row for row in totals if row["precision"] is not None}
    by_rule: dict[str, dict[str, dict[date, Row]]] = defaultdict(lambda: defaultdict(dict))
    for some_day in days:
        for row in rows.get(some_day, ()):
            by_rule[row["rule_name"]][row["mode"]][some_day] = row
    found = []
    for name, by_mode in by_rule.items():
        flagged = [sum(_count(of.get(it), "flagged_orders") for of in by_mode.values()) for it in days]
        past = [
            count / orders[it] if orders.get(it) else None for it, count in zip(days, flagged, strict=True)
        ]
        newest = max(max(of_days) for of_days in by_mode.values())
        found += [
            _rule(name, mode, judged.get((name, mode)), of_days, past, day, orders.get(day, 0))
            for mode, of_days in by_mode.items()
            if newest in of_days
        ]
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
    past: Sequence[float | None],
    day: date,
    orders: int,
) -> Rule:
    before = [share for share in past[:-1] if share is not None]
    flagged = _count(rows.get(day), "flagged_orders")
    labels = {"fraud": "labelled_fraud", "genuine": "labelled_genuine", "open": "unlabelled"}
    return Rule(
        name,
        mode,
        flagged=flagged,
        only=_count(rows.get(day), "only_reason_orders"),
        share=flagged / orders if orders else 0.0,
        usual=None if name == REASON else usual_share(before, orders),
        past=past,
        totals=totals,
        known={word: sum(_count(row, column) for row in rows.values()) for word, column in labels.items()},
    )


def _count(row: Row | None, name: str) -> int:
    # DuckDB adds integers up as decimals.
    return int(row[name] or 0) if row else 0
