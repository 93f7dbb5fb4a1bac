"""What is usual: a robust range of past values, and the interval of a share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

FEWEST_DAYS = 5
"""With fewer past values nothing is called usual or unusual."""
_DEVIATIONS = 3.0
_NORMAL = 1.4826
"""The standard deviation of a normal distribution, in median absolute deviations."""
_Z = 1.959963984540054
"""The two-sided 95 % quantile of the normal distribution, as in dbt's macro `wilson`."""


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
    middle = median(past)
    deviation = _NORMAL * median(abs(value - middle) for value in past)
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


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Return the 95 % Wilson score interval of a share, as dbt's macros do; None without trials."""
    if trials == 0:
        return None
    share, z2 = successes / trials, _Z * _Z
    middle = share + z2 / (2 * trials)
    reach = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)
