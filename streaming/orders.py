"""The order event: decode, validate, money, time."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

JAKARTA = ZoneInfo("Asia/Jakarta")


def business_day(instant: datetime) -> date:
    """The business day (Asia/Jakarta) that an aware instant falls on."""
    return instant.astimezone(JAKARTA).date()
