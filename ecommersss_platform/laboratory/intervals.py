"""Intervals of shares."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist, quantiles

_Z = NormalDist().inv_cdf(0.975)
_TWENTIETHS = 20


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Return the 95 % Wilson score interval of a share; None without trials.

    The marts have the same from the macro `wilson_low` (dbt_project/macros/dialect/wilson.sql).
    """
    if trials == 0:
        return None
    share, z2 = successes / trials, _Z * _Z / trials
    half = _Z * sqrt((share * (1 - share) + z2 / 4) / trials)
    low, high = (share + z2 / 2 - half) / (1 + z2), (share + z2 / 2 + half) / (1 + z2)
    return max(0.0, low), min(1.0, high)


def usual_range(shares: Sequence[float]) -> tuple[float, float] | None:
    """Return the 5 % and the 95 % quantile of the shares of some days; None without days."""
    if len(shares) < 2:
        return (shares[0], shares[0]) if shares else None
    low, *_, high = quantiles(shares, n=_TWENTIETHS, method="inclusive")
    return low, high
