"""The brake: when a promoted rule holds for far more orders than its backtest led to expect.

A rule that was promoted to active or review says in the book for which share of orders it is expected to hold
(`expected_share`). It is on probation for its first `PROBATION_ORDERS` orders. Meanwhile the consumer counts
the orders for which it holds, and `held_too_often` is a one-sided test of the greatest expected share, made
after each batch. If it fires, the consumer puts the rule back to shadow.

The test is Chernoff's bound: if each order independently held with probability `high`, the chance of `held`
or more among `orders` would be at most exp(-orders * KL(held/orders || high)). The rule is pulled when that
is below one in a million. A probation looks at most 10,000 times, so a rule that holds exactly as often as
the greatest expected share is pulled wrongly with a probability of less than 1 %, by the union bound; the
exact probability is less than one in 100,000 (see the tests). Fewer than `LEAST_HELD` orders never
pull a rule: one customer can place that many.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from streaming.business_days import local_time
from streaming.orders import Flagged
from streaming.rules.book import DECIDES, MAX_BYTES, Mode, RuleBook
from streaming.rules.edit import set_modes

PROBATION_ORDERS: Final = 10_000
"""How many orders a probation lasts."""

PROBATION_LINES: Final = 200
"""Most lines of a batch while a rule is on probation: a rule is pulled only after a batch."""

LEAST_HELD: Final = 20

_WRONG_PULL: Final = 1e-6
"""The bound of one look's probability of pulling a rule that holds as often as expected at most."""


@dataclass(frozen=True, slots=True)
class Probation:
    """One promotion of a rule. `id` tells it from every other one."""

    rule: str
    mode: Mode
    expected_share: tuple[float, float]
    id: str


@dataclass(frozen=True, slots=True)
class Count:
    """For how many of some orders a rule on probation held."""

    probation: Probation
    orders: int
    held: int

    @property
    def too_many(self) -> bool:
        return held_too_often(self.held, self.orders, self.probation.expected_share[1])


@dataclass(frozen=True, slots=True)
class Override:
    """A rule that the brake put back to shadow, and why: what the consumers had counted.

    `mode` is the rule's mode in the book that decided then.
    """

    rule: str
    mode: Mode
    expected_share: tuple[float, float]
    orders: int
    held: int
    pulled_at: datetime

    def as_row(self) -> dict[str, object]:
        """Return the override as a row for people and programs."""
        return {
            "rule": self.rule,
            "mode": self.mode,
            "pulled_at": self.pulled_at,
            "held": self.held,
            "orders": self.orders,
            "expected_at_most": self.expected_share[1],
        }

    def __str__(self) -> str:
        share, high = self.held / self.orders, self.expected_share[1]
        return (
            f"rule {self.rule} is in shadow instead of {self.mode} since {local_time(self.pulled_at)}: it"
            f" held for {self.held:,} of its first {self.orders:,} orders ({share:.2%}), and at most"
            f" {high:.2%} were expected"
        )


def held_too_often(held: int, orders: int, high: float) -> bool:
    """Return whether a rule holds by far more often than for a share `high` of orders."""
    if held < LEAST_HELD or held <= high * orders:
        return False
    return high == 0 or orders * _divergence(held / orders, high) > -math.log(_WRONG_PULL)


def _divergence(share: float, expected: float) -> float:
    """Return KL(share || expected) of two coins, in nats; 0 < expected < share <= 1."""
    rest = (1 - share) * math.log((1 - share) / (1 - expected)) if share < 1 else 0
    return share * math.log(share / expected) + rest


def probations(book: RuleBook) -> tuple[Probation, ...]:
    """Return the probations of a book's rules, whether or not they are over."""
    return tuple(
        Probation(
            rule.name,
            rule.mode,
            rule.expected_share,
            _digest(rule.name, rule.mode, rule.when, rule.expected_share, str(rule.promoted_at)),
        )
        for rule in book.rules
        if rule.expected_share is not None and rule.mode in DECIDES
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def count(orders: Sequence[Flagged], probations: Iterable[Probation]) -> list[Count]:
    """Return for how many of these decided orders each rule on probation held."""
    if not orders:
        return []
    return [
        Count(
            probation,
            len(orders),
            sum(
                probation.rule in (o.fraud_reasons if probation.mode == "active" else o.review_reasons)
                for o in orders
            ),
        )
        for probation in probations
    ]


def overridden(book: RuleBook, overrides: Iterable[Override]) -> RuleBook:
    """Return a book with its overridden rules in shadow; the book itself if none of them decides.

    The text says so in a comment, unless that would make it too long for a book. It is not parsed, which
    could take seconds.
    """
    decides = {rule.name for rule in book.rules if rule.mode in DECIDES}
    pulled = {override.rule: override for override in overrides if override.rule in decides}
    if not pulled:
        return book
    text = set_modes(book, dict.fromkeys(pulled, "shadow"))
    line_break = "\r\n" if "\r\n" in text else "\n"
    comments = "".join(f"# {override}.{line_break}" for override in pulled.values())
    mark = text[: text.startswith("\ufeff")]
    commented = mark + comments + text.removeprefix(mark)
    rules = tuple(replace(r, mode="shadow") if r.name in pulled else r for r in book.rules)
    fits = len(commented.encode()) <= MAX_BYTES
    return RuleBook(book.name, commented if fits else text, rules, book.sample)
