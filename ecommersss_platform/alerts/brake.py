"""Rules that the brake put back to shadow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem

if TYPE_CHECKING:
    from streaming.rules.brake import Override


def overrides(look: Look) -> tuple[Override, ...]:
    """Return the overrides that are in force."""
    from streaming.database.overrides import read_overrides  # brings the parser of rules

    with look.connection.cursor() as cursor:
        return read_overrides(cursor)


def brake_pulled(look: Look) -> list[Problem]:
    """Return a problem for each override that nobody has lifted."""
    return [
        Problem(
            "brake_pulled",
            override.rule,
            f"{override}: look at some of its orders, correct the rule or its expected share, then"
            f' `ecommersss rules overrides lift {override.rule} --reason "..."`',
        )
        for override in overrides(look)
    ]
