"""Counting how often values of which size occur, for one thread that counts and any that look."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Distribution:
    """Counts by size, in buckets given by their upper bounds (included); what is above all has one too.

    Counting costs a fraction of a microsecond and takes no lock. Who looks meanwhile may miss the latest
    value, and never sees one that was not there.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"bounds are {list(bounds)}: give them in growing order")
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, `times` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self._sum += value * times

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    def cumulated(self) -> tuple[list[tuple[float, int]], float]:
        """How many values are at most each bound, and at last infinity; and the sum of all values."""
        total = self._sum
        below = accumulate(tuple(self._counts))
        return list(zip((*self.bounds, float("inf")), below, strict=True)), total
