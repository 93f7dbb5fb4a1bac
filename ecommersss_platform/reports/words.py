"""Figures as words: rupiah in readable units, shares, counts, days and times in Jakarta."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal

from streaming.business_days import JAKARTA

NONE = "\N{EN DASH}"
"""What is shown instead of a figure that is not known."""
_UNITS = ("", " k", " m", " bn", " tn")


def rupiah(amount: Decimal | float | int | None) -> str:
    """Write an amount with three digits and a unit: Rp 950, Rp 12.3 m, Rp 1.24 bn."""
    if amount is None:
        return NONE
    value, unit = float(amount), 0
    while abs(value) >= 999.5 and unit + 1 < len(_UNITS):
        value, unit = value / 1000, unit + 1
    decimals = 0 if unit == 0 or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"Rp {value:,.{decimals}f}{_UNITS[unit]}"


def exact_rupiah(amount: Decimal | None) -> str:
    """Write an amount in full, for a tooltip."""
    return NONE if amount is None else f"Rp {amount:,.2f}"


def literal(value: object) -> str:
    """Write a value of a column as a literal of the rule language; instants in Jakarta."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).upper()
        case Decimal():
            return f"{value:f}"
        case datetime():
            return f"'{value.astimezone(JAKARTA).isoformat()}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case _:
            return str(value)


def percent(share: float | None) -> str:
    """Write a share, 0 to 1, as a percentage: 0.52 %, 12.3 %."""
    if share is None:
        return NONE
    value = 100 * share
    return f"{value:.{0 if value >= 99.95 or value == 0 else 1 if value >= 9.995 else 2}f} %"


def percents(ends: tuple[float, float]) -> str:
    """Write a range of shares."""
    return between(*ends, percent)


def between(low: float, high: float, write: Callable[[float], str]) -> str:
    """Write a range: up to 2.16 %, 47.9 to 55.5 %."""
    if low <= 0:
        return f"up to {write(high)}"
    first, last = write(low), write(high).removeprefix("Rp ")
    unit = last.lstrip("0123456789,.")
    return f"{first.removesuffix(unit)} to {last}"


def count(number: float | None) -> str:
    return NONE if number is None else f"{number:,.0f}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun: 1 order, 2 orders."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def long_day(day: date) -> str:
    """Write a day in full: Wednesday, 25 November 2026."""
    return f"{day:%A}, {day.day} {day:%B %Y}"


def short_day(day: date) -> str:
    return f"{day.day} {day:%b}"


def moment(instant: datetime) -> str:
    """Write an instant to the minute, in Jakarta: 26 Nov 2026, 03:02."""
    local = instant.astimezone(JAKARTA)
    return f"{local.day} {local:%b %Y, %H:%M}"
