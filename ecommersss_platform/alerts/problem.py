"""What can be wrong with the platform: the kinds of problems, and one problem.

Nothing fires. A problem is a fact that is wrong now: it is open while it is seen, and resolved when it is no
longer seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

ENGINEERING: Final = "team:data-engineering"
ANALYTICS: Final = "team:fraud-analytics"

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Kind:
    """A kind of problem. `docs/operate.md` says under a heading of its name what to do."""

    owner: str
    severity: Severity
    meaning: str


KINDS: Final[Mapping[str, Kind]] = {
    "run_failed": Kind(ENGINEERING, "error", "A run failed after its retries."),
    "check_failed": Kind(ENGINEERING, "error", "The newest execution of a data check failed."),
    "parity_differs": Kind(ENGINEERING, "error", "Stream and warehouse give orders different reasons."),
    "freshness_missed": Kind(ENGINEERING, "error", "A table has no partition of a day that is due."),
    "sensor_failing": Kind(ENGINEERING, "error", "A sensor or schedule fails at each evaluation."),
    "sensor_off": Kind(ENGINEERING, "warning", "A sensor or schedule of the platform is switched off."),
    "consumer_stalled": Kind(ENGINEERING, "error", "The consumer lags, and commits nothing."),
    "consumer_restarting": Kind(ENGINEERING, "error", "The consumer ended more than twice in a row."),
    "process_restarting": Kind(ENGINEERING, "error", "A process of the platform ended more than twice."),
    "lag_rising": Kind(ENGINEERING, "warning", "Orders arrive faster than the consumer stores them."),
    "producer_silent": Kind(ENGINEERING, "warning", "Nothing has been published to the topic for a while."),
    "rejected_spike": Kind(ENGINEERING, "warning", "Many more lines than usual are rejected."),
    "fraud_spike": Kind(ANALYTICS, "warning", "The share of fraud is above its usual range."),
    "rule_silent": Kind(ANALYTICS, "warning", "A rule that used to fire has stopped."),
    "rule_always": Kind(ANALYTICS, "warning", "A rule fires for nearly every order."),
    "brake_pulled": Kind(ANALYTICS, "error", "The consumer put a promoted rule back to shadow."),
    "rule_book_invalid": Kind(ANALYTICS, "error", "The file of the rule book cannot be used."),
    "disk_nearly_full": Kind(ENGINEERING, "error", "A disk that the platform writes to is nearly full."),
    "postgres_down": Kind(ENGINEERING, "error", "PostgreSQL does not answer."),
    "daemon_down": Kind(ENGINEERING, "error", "Dagster's daemon starts no schedules, sensors or runs."),
    "alert_state_damaged": Kind(ENGINEERING, "warning", "The memory of the alerts was damaged."),
    "daily_bytes_used_up": Kind(ENGINEERING, "warning", "The warehouse's budget of the day is used up."),
}
"""Every kind by its name. Another kind is a row here, a source in `observe.py` and a heading in the docs."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong now. `kind` and `subject` identify it for as long as it lasts."""

    kind: str
    """A key of `KINDS`."""
    subject: str
    """What it is about, such as "daily_pipeline 2026-11-24" or "consumer". No personal data."""
    summary: str
    """One sentence: what is wrong, with which value, and what to do next. No secrets, no personal data."""
    link: str | None = None
    """A page of the UI, or a report."""


def kind_of(problem: Problem) -> Kind:
    """Return the kind of a problem, even if a version that knew another one has remembered it."""
    return KINDS.get(problem.kind, Kind(ENGINEERING, "warning", "This version does not know the kind."))


@dataclass(frozen=True)
class Observation:
    """What a look at the platform found.

    `unknown`: kinds that could not be looked at, such as those in a database that is down. Problems of these
    kinds are neither opened nor resolved.
    """

    problems: Sequence[Problem] = ()
    unknown: frozenset[str] = frozenset()
