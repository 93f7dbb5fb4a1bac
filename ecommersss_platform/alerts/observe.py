"""What is wrong with the platform now: the only entrance to the sources of problems.

A source that fails hides no other: its kinds of problems are unknown this time. What a problem explains is
unknown as well, so that one cause is told once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg2
import psycopg2.errors

from ecommersss_platform.alerts.brake import brake_pulled
from ecommersss_platform.alerts.budget import daily_bytes_used_up
from ecommersss_platform.alerts.daemon import daemon_down, sensors_and_schedules
from ecommersss_platform.alerts.disk import full_disks
from ecommersss_platform.alerts.failed_checks import failed_checks
from ecommersss_platform.alerts.failed_runs import failed_runs
from ecommersss_platform.alerts.late_tables import late_tables
from ecommersss_platform.alerts.look import Database, Look, Undecided
from ecommersss_platform.alerts.problem import Observation, Problem
from ecommersss_platform.alerts.processes import restarting
from ecommersss_platform.alerts.rule_book import rule_book_invalid
from ecommersss_platform.alerts.spikes import unusual
from ecommersss_platform.alerts.store import damaged_states
from ecommersss_platform.alerts.stream import consumer_stalled, lag_rising, producer_silent
from ecommersss_platform.alerts.text import covers, without_secrets
from ecommersss_platform.freshness import newest_due_day
from ecommersss_platform.instance.databases import dagster_url, database_url
from ecommersss_platform.local.stack import running
from ecommersss_platform.settings import Settings
from streaming.database import connect
from streaming.errors import PlatformError, first_line

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PATIENCE = 10.0
"""The seconds within which a database must have answered all questions."""
STATEMENT_SECONDS = 5
"""The longest statement. A source whose statement takes longer is unknown, and the database still answers."""
DOWN = timedelta(seconds=20)
"""How long a database may be away: the supervisor restarts a server that died within seconds."""

_log = logging.getLogger("ecommersss.alerts")


@dataclass(frozen=True)
class Source:
    """A place to look at, and the kinds of problems that can be seen there.

    `database`: the one whose connection it needs. `every`: how long the last answer holds; what is dear, or
    changes slowly, is looked at less often.
    """

    kinds: frozenset[str]
    look: Callable[[Look], Iterable[Problem]]
    database: Database | None = None
    every: timedelta = timedelta()


_MINUTE = timedelta(minutes=1)

SOURCES = (
    Source(frozenset({"consumer_restarting", "process_restarting"}), restarting),
    Source(frozenset({"producer_silent"}), producer_silent, Database.OPERATIONAL),
    Source(frozenset({"consumer_stalled"}), consumer_stalled, Database.OPERATIONAL),
    Source(frozenset({"lag_rising"}), lag_rising, Database.OPERATIONAL, _MINUTE),
    Source(
        frozenset({"fraud_spike", "rejected_spike", "rule_silent", "rule_always"}),
        unusual,
        Database.OPERATIONAL,
        5 * _MINUTE,
    ),
    Source(frozenset({"brake_pulled"}), brake_pulled, Database.OPERATIONAL),
    Source(frozenset({"daily_bytes_used_up"}), daily_bytes_used_up, Database.OPERATIONAL, 5 * _MINUTE),
    Source(frozenset({"run_failed"}), failed_runs, Database.DAGSTER),
    Source(frozenset({"check_failed", "parity_differs"}), failed_checks, Database.DAGSTER, _MINUTE),
    Source(frozenset({"freshness_missed"}), late_tables, Database.DAGSTER, _MINUTE),
    Source(frozenset({"daemon_down"}), daemon_down, Database.DAGSTER),
    Source(frozenset({"sensor_failing", "sensor_off"}), sensors_and_schedules, Database.DAGSTER),
    Source(frozenset({"rule_book_invalid"}), rule_book_invalid),
    Source(frozenset({"disk_nearly_full"}), full_disks, every=_MINUTE),
    Source(frozenset({"alert_state_damaged"}), lambda look: damaged_states(look.settings)),
)
"""Every source. Another one is a function from a look to problems, and a row here."""

EXPLAINS: Mapping[tuple[str, str | None], frozenset[str]] = {
    ("postgres_down", None): frozenset(
        {"consumer_stalled", "consumer_restarting", "process_restarting", "producer_silent", "lag_rising"}
    ),
    ("rule_book_invalid", None): frozenset({"consumer_restarting", "consumer_stalled", "lag_rising"}),
    ("consumer_restarting", None): frozenset({"consumer_stalled", "lag_rising"}),
    ("consumer_stalled", None): frozenset({"lag_rising"}),
    ("process_restarting", "producer"): frozenset({"producer_silent"}),
    ("process_restarting", "daemon"): frozenset({"daemon_down"}),
    ("process_restarting", "code"): frozenset({"daemon_down", "sensor_failing"}),
    ("rule_always", None): frozenset({"fraud_spike"}),
}
"""What a problem explains, of any subject or of one. It is told alone; the rest shows when it is over."""


def observe(settings: Settings, now: datetime) -> Observation:
    """Look at every source that is due, and return what is wrong. Raises nothing that a source raises.

    Repeated looks at the same platform remember the earlier ones and keep their connections.
    """
    return _observer(settings).look(now)


@lru_cache(maxsize=4)
def _observer(settings: Settings) -> Observer:
    return Observer(settings)


@dataclass
class _Answer:
    """What a source said, and when. `problems` is None if its kinds are unknown."""

    at: datetime
    problems: Sequence[Problem] | None


class Observer:
    """Looks at one platform again and again.

    `patient`: more looks follow, so what may pass by itself, or be about to start, is not told at once.
    """

    def __init__(self, settings: Settings, *, patient: bool = True) -> None:
        self._settings = settings
        self._patient = patient
        self._began: datetime | None = None
        self._memory: dict[Source, dict[str, Any]] = {source: {} for source in SOURCES}
        self._answers: dict[Source, _Answer] = {}
        self._down_since: datetime | None = None
        self._connections: dict[Database, Connection] = {}
        self._asked: dict[Database, threading.Thread] = {}

    def look(self, now: datetime) -> Observation:
        """Return what is wrong now."""
        up = running(self._settings)
        self._began = self._began or (now if self._patient else datetime.min.replace(tzinfo=UTC))
        since = max(self._began, datetime.fromisoformat(up["started"])) if up else self._began
        due = [source for source in SOURCES if self._is_due(source, now)]

        def see(source: Source, connection: Connection | None = None) -> None:
            view = Look(self._settings, now, since, up, self._patient, self._memory[source], connection)
            self._answers[source] = _Answer(now, self._problems(source, view))

        for source in due:
            if source.database is None:
                see(source)
        down: dict[Database, str] = {}
        for database in Database:
            chosen = [source for source in due if source.database is database]
            try:
                self._ask(database, chosen, see)
            except (psycopg2.Error, PlatformError) as error:
                down[database] = without_secrets(first_line(error)).rstrip(".")
                for source in self._answers.keys() | set(chosen):
                    if source.database is database:
                        self._answers[source] = _Answer(datetime.min.replace(tzinfo=UTC), None)
        answers = [self._answers[source] for source in SOURCES]
        unknown = {
            kind for source in SOURCES if self._answers[source].problems is None for kind in source.kinds
        }
        problems = [problem for answer in answers for problem in answer.problems or ()]
        outage, pending = self._outage(down, now)
        return explained([*outage, *problems], unknown | pending, now)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            with suppress(psycopg2.Error):
                connection.close()
        self._connections.clear()

    def _is_due(self, source: Source, now: datetime) -> bool:
        last = self._answers.get(source)
        return last is None or last.problems is None or now - last.at >= source.every

    def _problems(self, source: Source, look: Look) -> Sequence[Problem] | None:
        """Return what a source sees; None if it cannot say. Raises if the database is gone."""
        try:
            return list(source.look(look))
        except Undecided:
            return None
        except psycopg2.errors.QueryCanceled as error:
            reason = first_line(error)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            raise
        except Exception as error:  # a source that fails must not hide the others
            reason = f"{type(error).__name__}: {first_line(error)}"
        _log.warning("no look at %s: %s", ", ".join(sorted(source.kinds)), without_secrets(reason))
        return None

    def _ask(self, database: Database, sources: Sequence[Source], see: Callable[..., None]) -> None:
        """Let these sources look at a database. Raises what says that the database does not answer.

        A frozen server answers nothing and closes nothing, so it is asked in a thread, which may stay behind.
        """
        if not sources:
            return
        earlier = self._asked.get(database)
        if earlier is not None and earlier.is_alive():
            raise PlatformError("it is connected and does not answer")
        failure: list[Exception] = []

        def use(connection: Connection) -> None:
            for source in sources:
                see(source, connection)

        def ask() -> None:
            try:
                self._on_connection(database, use)
            except Exception as error:
                failure.append(error)

        thread = self._asked[database] = threading.Thread(
            target=ask, name=f"look at {database.value}", daemon=True
        )
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive():
            self._connections.pop(database, None)
            raise PlatformError(f"it did not answer within {PATIENCE:g} s")
        if failure:
            raise failure[0]

    def _on_connection(self, database: Database, use: Callable[[Connection], None]) -> None:
        """Use the kept connection; if it is dead, as after a restart of the server, a new one."""
        kept = self._connections.pop(database, None)
        if kept is not None:
            try:
                use(kept)
                self._connections[database] = kept
                return
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                with suppress(psycopg2.Error):
                    kept.close()
        url = database_url if database is Database.OPERATIONAL else dagster_url
        connection = connect(url(self._settings), "ecommersss alerts")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
        use(connection)
        self._connections[database] = connection

    def _outage(self, down: Mapping[Database, str], now: datetime) -> tuple[list[Problem], set[str]]:
        """Return the problem of databases that are down, and the kind that is unknown while it may pass."""
        if not down:
            self._down_since = None
            return [], set()
        self._down_since = self._down_since or now
        if self._patient and now - self._down_since < DOWN:
            return [], {"postgres_down"}
        what = " and ".join(database.value for database in down)
        reasons = "; ".join(dict.fromkeys(down.values()))
        what_to_do = "start it, or see logs/postgres.log; nothing is lost, and orders wait in the topic"
        return [
            Problem(
                "postgres_down", "PostgreSQL", f"{what}: no answer from PostgreSQL ({reasons}): {what_to_do}"
            )
        ], set()


def explained(problems: Sequence[Problem], unknown: Iterable[str], now: datetime) -> Observation:
    """Return the problems without those that another one explains. These are unknown: not new, not over."""
    consequences: set[str] = set()
    for problem in problems:
        if problem.kind not in consequences:
            for subject in (None, problem.subject):
                consequences |= EXPLAINS.get((problem.kind, subject), frozenset())
            if problem.kind == "run_failed" and covers(problem.subject, newest_due_day(now).isoformat()):
                consequences |= {"freshness_missed"}
    return Observation(
        [problem for problem in problems if problem.kind not in consequences],
        frozenset(unknown) | consequences,
    )
