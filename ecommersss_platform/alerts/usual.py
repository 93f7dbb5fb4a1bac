"""The usual range of a share, and whether what is seen now is outside of it. docs/unusual.md explains it.

A share is judged by the same hour of the last days: people order, and cheat, differently at night. Median and
MAD (the median of the distances from the median) are the usual share and its spread. Unlike a mean, they do
not move because one earlier day was unusual itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p, sqrt
from statistics import median

DAYS = 28
"""How many days back the same hour is compared with: each day of the week counts four times."""
FEWEST_DAYS = 7
FEWEST_ORDERS = 30
"""A past hour with fewer orders has no share worth the name."""
FEWEST_HITS = 10
"""Fewer orders are no spike, whatever their share."""
FLOOR = 0.005
"""The least spread of a share: half a percentage point."""
OPENS, CLOSES = 5.0, 3.0
"""How many spreads above the usual share a spike begins, and ends. With one limit it would flicker."""

MAD_OF_NORMAL = 1.4826
"""The standard deviation of a normal distribution in units of its MAD."""

SILENT = 20.0
"""A rule is silent if chance explains it in one of e to the 20th cases, which are 500 million."""
ALWAYS_SHARE, ALWAYS_TIMES, ALWAYS_ORDERS = 0.5, 3.0, 100
"""A rule flags always if it flags half of 100 orders or more, and three times its usual share."""


def robust(values: Sequence[float]) -> tuple[float, float]:
    """Return the median of values, and their standard deviation as the MAD estimates it."""
    middle = median(values)
    return middle, MAD_OF_NORMAL * median(abs(value - middle) for value in values)


@dataclass(frozen=True)
class Count:
    """How many of all the orders (or lines) of a time have a property."""

    hits: int
    all: int

    @property
    def share(self) -> float:
        return self.hits / self.all if self.all else 0.0

    def __add__(self, other: Count) -> Count:
        return Count(self.hits + other.hits, self.all + other.all)


@dataclass(frozen=True)
class Usual:
    """The usual share of a property at an hour of the day, and its spread over the days."""

    share: float
    spread: float

    def limit(self, orders: int, times: float = OPENS) -> float:
        """Return the share above which an hour with this many orders is not usual.

        The spread of the days, the sampling error of these orders and the floor add up as independent errors.
        """
        sampling = self.share * (1 - self.share) / max(orders, 1)
        return self.share + times * sqrt(self.spread**2 + sampling + FLOOR**2)


def usual(past: Sequence[Count]) -> Usual | None:
    """Return what is usual after these past hours, or None if they are too few to say."""
    shares = [count.share for count in past if count.all >= FEWEST_ORDERS]
    if len(shares) < FEWEST_DAYS:
        return None
    return Usual(*robust(shares))


def is_spike(now: Count, past: Sequence[Count], *, told: bool = False) -> bool:
    """Return whether the share is far above the usual one. `told`: whether it was at the last look."""
    range_ = usual(past)
    return (
        range_ is not None
        and now.hits >= FEWEST_HITS
        and now.share > range_.limit(now.all, CLOSES if told else OPENS)
    )


def is_silent(now: Count, past: Count) -> bool:
    """Return whether a rule that used to flag orders now flags none, and chance does not explain it.

    At one and the same share, each hit is among the past orders with the probability past / (past + now), and
    so all of them are with that to the power of the hits. Few past hits therefore prove nothing.
    """
    return now.hits == 0 and past.hits > 0 and past.hits * log1p(now.all / past.all) >= SILENT


def expected(now: Count, past: Count) -> float:
    """Return how many hits there would be now at the past share."""
    return past.share * now.all


def is_always(now: Count, past: Count) -> bool:
    """Return whether a rule suddenly flags a large share of all orders. A new rule has no past share."""
    return (
        now.all >= ALWAYS_ORDERS
        and past.all >= ALWAYS_ORDERS
        and now.share >= max(ALWAYS_SHARE, ALWAYS_TIMES * past.share)
    )
