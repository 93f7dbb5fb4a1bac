"""What a backtest found: a candidate rule book beside what the stream stored.

*Before* is what the stream stored, with whatever books decided; *after* is the candidate on the same orders.
A rule *flags* an order for which it holds, in any mode but off; the book flags an order as fraud if an active
rule holds. Precision and recall are those of days whose labels are complete, as in `gold.rule_performance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from ecommersss_platform.days import Days
from ecommersss_platform.laboratory.intervals import usual_range, wilson
from streaming.rules import Rule, RuleBook

SHARE_DECIMALS = 6
"""Decimals of a share of traffic."""


@dataclass(frozen=True)
class Sum:
    """A number of orders and their amount, rupiah."""

    orders: int = 0
    amount: Decimal = Decimal(0)

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.orders + other.orders, self.amount + other.amount)

    def __sub__(self, other: Sum) -> Sum:
        return Sum(self.orders - other.orders, self.amount - other.amount)


@dataclass(frozen=True)
class Share:
    """A share of `trials` orders, with its 95 % Wilson interval; all None without trials."""

    successes: int
    trials: int

    @property
    def value(self) -> float | None:
        return self.successes / self.trials if self.trials else None

    @property
    def ends(self) -> tuple[float, float] | None:
        return wilson(self.successes, self.trials)


@dataclass(frozen=True)
class Flagging:
    """The orders that a book or a rule flags, and what the labels say of them."""

    flagged: Sum
    fraud_caught: Sum
    fraud_missed: Sum
    genuine_flagged: Sum
    precision: Share
    recall: Share

    @property
    def unlabelled(self) -> int:
        """Flagged orders of which nobody knows yet what they were."""
        return self.flagged.orders - self.fraud_caught.orders - self.genuine_flagged.orders


@dataclass(frozen=True)
class Example:
    """An order for which something changes. `values`: those of the columns that matter."""

    order: int
    day: date
    amount: Decimal
    label: str
    before: Sequence[str]
    after: Sequence[str]
    values: Mapping[str, object]


@dataclass(frozen=True)
class Change:
    """What changes for the book, or for one rule."""

    before: Flagging
    after: Flagging
    newly_flagged: Sum
    no_longer_flagged: Sum
    whole_share: Share
    """Of all orders, those flagged after."""
    daily_shares: Mapping[date, tuple[float, float]]
    """Of each day with orders: the share of its orders that was flagged, and that would be."""
    newly: Sequence[Example]
    no_longer: Sequence[Example]

    @property
    def share(self) -> tuple[float, float]:
        """The share of the orders of a day that is flagged after, as an interval.

        Its ends are the 5 % and the 95 % quantile of the days. It is never narrower than the 95 % Wilson
        interval of all days together, because a few days with few orders say little.
        """
        ends = (usual_range([after for _, after in self.daily_shares.values()]), self.whole_share.ends)
        known = [it for it in ends if it is not None]
        low, high = min((it[0] for it in known), default=0.0), max((it[1] for it in known), default=1.0)
        return round(low, SHARE_DECIMALS), round(high, SHARE_DECIMALS)


@dataclass(frozen=True)
class RuleChange:
    """What changes for one rule. `rule` is None for one that the candidate does not have."""

    name: str
    rule: Rule | None
    change: Change
    only: Sum
    """Flagged orders for which no other rule of its mode holds, and no active one."""
    exempted: Sum
    """Orders that it would flag if their users were not exempt."""

    @property
    def mode(self) -> str:
        """The mode in the candidate; `removed` if it has no such rule."""
        return self.rule.mode if self.rule else "removed"


@dataclass(frozen=True)
class Backtest:
    """The outcome of a candidate book on the orders of some days."""

    candidate: RuleBook
    days: Days
    made_at: datetime
    orders: Mapping[str, Sum]
    """All orders, by label: fraud, genuine, unknown."""
    mature: Sum
    """Those of days whose labels are complete."""
    book: Change
    review_before: int
    review_after: int
    """Orders that pass and wait for a person."""
    rules: Sequence[RuleChange]
    """In the order of the candidate; then those that only flagged before."""

    @property
    def total(self) -> Sum:
        """All orders of the days."""
        return sum(self.orders.values(), Sum())
