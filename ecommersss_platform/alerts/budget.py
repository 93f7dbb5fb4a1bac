"""The warehouse's budget of the day."""

from __future__ import annotations

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.usage import used_up
from streaming.business_days import business_day


def daily_bytes_used_up(look: Look) -> list[Problem]:
    """Return a problem if the budget of today is used up."""
    budget = look.settings.bigquery_daily_bytes
    reason = None if budget is None else used_up(look.connection, budget, day := business_day(look.now))
    return [Problem("daily_bytes_used_up", day.isoformat(), reason)] if reason else []
