"""What is usual on a day: a robust range of past values. What an alert takes for unusual is another thing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from ecommersss_platform.alerts.usual import robust

FEWEST_DAYS = 5
"""With fewer past values nothing is called usual or unusual."""
_DEVIATIONS = 3.0


class Standing(StrEnum):
    """How a value compares with its usual range."""

    USUAL = "usual"
    HIGH = "high"
    LOW = "low"
    UNKNOWN = "unknown"
    """There are too few past values."""


@dataclass(frozen=True)
class Usual:
    """The usual range of a value."""

    median: float
    low: float
    high: float
    values: int
    """The number of past values that it is made of."""

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def standing(self, value: float) -> Standing:
        if value > self.high:
            return Standing.HIGH
        return Standing.LOW if value < self.low else Standing.USUAL


def usual_range(past: Sequence[float], noise: float = 0.0) -> Usual | None:
    """Return the range around the median of past values; None if they are fewer than `FEWEST_DAYS`.

    It reaches three robust standard deviations (1.4826 times the median absolute deviation) to either side,
    and at least `noise`: what chance alone explains. It does not go below zero.
    """
    if len(past) < FEWEST_DAYS:
        return None
    middle, deviation = robust(past)
    reach = max(_DEVIATIONS * deviation, noise)
    return Usual(middle, max(0.0, middle - reach), middle + reach, len(past))


def usual_count(past: Sequence[float]) -> Usual | None:
    """Return the usual range of a count. Chance explains three times the square root of the median."""
    return usual_range(past, _DEVIATIONS * math.sqrt(max(median(past), 1.0)) if past else 0.0)


def usual_share(past: Sequence[float], trials: int) -> Usual | None:
    """Return the usual range of a share, 0 to 1, of `trials`. Chance explains three binomial errors."""
    if not past or trials == 0:
        return None
    share = min(max(median(past), 1 / trials), 1.0)
    return usual_range(past, _DEVIATIONS * math.sqrt(share * (1 - share) / trials))


def usual_amount(past: Sequence[float]) -> Usual | None:
    """Return the usual range of an amount. A tenth of the median is never unusual."""
    return usual_range(past, median(past) / 10 if past else 0.0)
