"""What a consumer counts: one thread counts, and any thread may read."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming.decisions import Decision


class Distribution:
    """A histogram: counts of values in buckets with inclusive upper bounds, and one bucket above them all.

    Counting takes a fraction of a microsecond and no lock. A concurrent reader may miss the latest value but
    never sees one that was not counted.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"bounds are {list(bounds)}: give them in ascending order")
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times

    @property
    def count(self) -> int:
        """The number of values counted."""
        return sum(self._counts)

    def cumulative(self) -> tuple[list[tuple[float, int]], float]:
        """Return how many values are at most each bound (the last is infinity), and the sum of all values."""
        total = self._sum
        below = accumulate(tuple(self._counts))
        return list(zip((*self.bounds, float("inf")), below, strict=True)), total


class RecentDistribution:
    """A histogram of the last `minutes` minutes, the current one included. `clock` is in seconds.

    One thread counts, and any thread may ask.
    """

    def __init__(
        self, bounds: Sequence[float], minutes: int = 5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bounds = bounds
        self._minutes = minutes
        self._clock = clock
        # Replaced as a whole, so that a reader never sees a half-changed list.
        self._slots: tuple[tuple[int, Distribution], ...] = ()

    def add(self, value: float, times: int = 1) -> None:
        """Count a value `times` times, in the current minute."""
        minute = self._minute()
        if not self._slots or self._slots[-1][0] != minute:
            self._slots = (*self._slots[1 - self._minutes :], (minute, Distribution(self._bounds)))
        self._slots[-1][1].add(value, times)

    def quantile(self, share: float) -> float | None:
        """Return the bound that `share` of the recent values do not exceed; None if there are no values."""
        oldest = self._minute() - self._minutes + 1
        buckets = [slot.cumulative()[0] for minute, slot in self._slots if minute >= oldest]
        if not buckets:
            return None
        below = [(bound, sum(b[n][1] for b in buckets)) for n, (bound, _) in enumerate(buckets[0])]
        return next(bound for bound, count in below if count >= share * below[-1][1])

    def _minute(self) -> int:
        return int(self._clock() // 60)


_LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


@dataclass
class Counters:
    """What a consumer has done since it was made."""

    orders: int = 0
    fraud: int = 0
    fraud_by_rule: Counter[str] = field(default_factory=Counter)
    shadow_by_rule: Counter[str] = field(default_factory=Counter)
    review_by_rule: Counter[str] = field(default_factory=Counter)
    """Also of orders that are fraud by another rule. The random sample counts as a rule."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    duplicates: int = 0
    retried: int = 0
    """Lines published again because their user or product had arrived."""
    batches: int = 0
    sizes: Distribution = field(
        default_factory=lambda: Distribution([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000])
    )
    """Lines of each batch, valid or not."""
    latency: Distribution = field(default_factory=lambda: Distribution(_LATENCIES))
    """Of each line: seconds from reading it until its order was committed and its flagged line written."""
    recent_latency: RecentDistribution = field(default_factory=lambda: RecentDistribution(_LATENCIES))
    """The same of the last five minutes: the backlog of a start does not stay in it for ever."""

    def record(self, decision: Decision, lines: int, seconds: float) -> None:
        """Count a finished batch: the decision, its number of lines, and the seconds since it was read."""
        self.batches += 1
        self.sizes.add(lines)
        self.latency.add(seconds, lines)
        self.recent_latency.add(seconds, lines)
        self.orders += len(decision.orders)
        self.duplicates += decision.duplicates
        for order in decision.orders:
            if order.fraud_reasons:
                self.fraud += 1
                self.fraud_by_rule.update(order.fraud_reasons)
            if order.shadow_reasons:
                self.shadow_by_rule.update(order.shadow_reasons)
            if order.review_reasons:
                self.review_by_rule.update(order.review_reasons)
        self.rejected.update(line.reason for line in decision.rejected)

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.rejected.items()))
        return (
            f"{self.orders:,} orders, {self.fraud:,} of them fraud; {self.rejected.total():,} lines rejected"
            f"{f' ({reasons})' if reasons else ''}; {self.duplicates:,} duplicates; {self.batches:,} batches"
        )
