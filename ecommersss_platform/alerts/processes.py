"""Processes of `ecommersss up` that end again and again, as its supervisor records them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem
from ecommersss_platform.alerts.text import without_secrets

WITHIN = timedelta(minutes=10)
MOST_RESTARTS = 2
"""How many restarts within this time are not told. The supervisor's log has each."""

_LONGEST_ENDING = 300


def restarting(look: Look) -> Iterator[Problem]:
    """Yield a problem for each process that ended too often and has not run for a minute since."""
    for row in look.up["processes"] if look.up else ():
        count = recent_restarts(row, look.now)
        if count > MOST_RESTARTS and row.get("problem"):
            name = row["name"]
            yield Problem(
                "consumer_restarting" if name == "consumer" else "process_restarting",
                name,
                f"the {name} ended {count} times within {WITHIN.seconds // 60} min"
                f" ({without_secrets(row['problem'])[:_LONGEST_ENDING]}): correct the cause, see"
                f" logs/{name}.log; it is restarted by itself",
            )


def recent_restarts(row: Mapping[str, Any], now: datetime) -> int:
    """Return how often a process was restarted lately. `row`: as `stack.running` returns it."""
    return sum(now - datetime.fromisoformat(at) <= WITHIN for at in row.get("restarted_at", ()))
