"""What is wrong with the platform now: the only entrance to the sources of problems.

A source that fails hides no other: its kinds of problems are unknown this time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from ecommersss_platform.alerts.failed_runs import failed_runs
from ecommersss_platform.alerts.problem import Observation, Problem
from ecommersss_platform.settings import Settings
from streaming.errors import first_line

_log = logging.getLogger("ecommersss.alerts")


@dataclass(frozen=True)
class Source:
    """A place to look at, and the kinds of problems that can be seen there."""

    kinds: frozenset[str]
    look: Callable[[Settings, datetime], Iterable[Problem]]


SOURCES = (Source(frozenset({"run_failed"}), failed_runs),)


def observe(settings: Settings, now: datetime) -> Observation:
    """Look at every source once, and return what is wrong. Raises nothing that a source raises."""
    problems: list[Problem] = []
    unknown: set[str] = set()
    for source in SOURCES:
        try:
            problems += source.look(settings, now)
        except Exception as error:
            unknown |= source.kinds
            _log.info("no look at %s: %s", ", ".join(sorted(source.kinds)), first_line(error))
    return Observation(problems, frozenset(unknown))
