"""Dagster's storage in the platform's PostgreSQL, whose address the settings know; one daemon works on it.

`dagster.yaml` names these classes, and holds no address. So Dagster's own commands need only DAGSTER_HOME,
say in one sentence what is down, and read nothing of libpq's environment.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Self

import click
from dagster._serdes import ConfigurableClassData
from dagster._utils.interrupts import raise_interrupts_as
from dagster_postgres import PostgresScheduleStorage
from dagster_postgres.utils import DagsterPostgresException, create_pg_engine
from sqlalchemy.engine import Engine

from ecommersss_platform.instance.databases import dagster_url
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.settings import Settings
from streaming.database.urls import pinned_url, place_of
from streaming.errors import PlatformError
from streaming.libpq import drop_libpq_variables

_log = logging.getLogger("dagster.ecommersss")
_daemon_lock: FileLock | None = None


class StorageDown(click.ClickException, PlatformError):
    """Dagster's storage cannot be opened. Commands of Dagster and ours print the text alone."""


_QUESTIONS = (
    *("has_table", "has_built_index", "has_instigators_table", "has_backfill_tags_table"),
    *("has_run_stats_index_cols", "has_backfill_id_column", "has_asset_key_col"),
    *("has_bulk_actions_selector_cols", "has_bulk_action_job_name_column"),
)
"""What Dagster asks its database about the schema, before most statements."""


class InOurDatabase:
    """A PostgreSQL storage of Dagster that takes its address from the settings.

    It asks about the schema until it gets a yes, and remembers that. A no is asked again: a migration may add
    what is missing. Dagster's own storages ask each time, in three queries to the catalogue for a table.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in _QUESTIONS:
            if hasattr(cls, name):
                setattr(cls, name, _asked_until_yes(getattr(cls, name)))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        url = storage_url(Settings())
        drop_libpq_variables()
        try:
            return cls(postgres_url=url, inst_data=inst_data)  # type: ignore[call-arg]
        except DagsterPostgresException as error:
            raise StorageDown(
                f"Dagster's storage at {place_of(url)} does not answer: start it,"
                " or correct ECOMMERSSS_DAGSTER_URL"
            ) from error


def _asked_until_yes(question: Callable[..., bool]) -> Callable[..., bool]:
    @wraps(question)
    def answer(storage: Any, *arguments: str) -> bool:
        known: set[tuple[str, ...]] = storage.__dict__.setdefault("_schema_has", set())
        asked = (question.__name__, *arguments)
        if asked not in known and question(storage, *arguments):
            known.add(asked)
        return asked in known

    return answer


class KeepsConnection(InOurDatabase):
    """A storage that keeps its connection until it is disposed of.

    Outside the webserver Dagster's own opens one for each statement: 800 in a run of a day, which took a
    third of its time.
    """

    postgres_url: str
    _engine: Engine

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        storage = super().from_config_value(inst_data, config_value)
        # Threads that need one at the same time open more, for as long as they need them. The ping finds out
        # that the server was started again.
        storage._engine = create_pg_engine(
            storage.postgres_url,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
        )
        return storage

    def dispose(self) -> None:
        super().dispose()  # type: ignore[misc]
        self._engine.dispose()


class ScheduleStorage(InOurDatabase, PostgresScheduleStorage):
    """Dagster's schedules and sensors: their state and their ticks. Dagster does not dispose of it."""


def storage_url(settings: Settings) -> str:
    """Return the URL of Dagster's storage: the setting, else that of the embedded server, which must run.

    Raises `StorageDown`.
    """
    home = os.environ.get("DAGSTER_HOME")
    if settings.dagster_url is None and home and Path(home).resolve() != settings.dagster_home.resolve():
        raise StorageDown(
            f"DAGSTER_HOME is {home}, but the settings' home has {settings.dagster_home}:"
            ' correct the line in .env, which wins over the shell, or run `eval "$(ecommersss env)"`'
        )
    try:
        return pinned_url(dagster_url(settings))
    except PlatformError as error:
        raise StorageDown(str(error)) from None


def runs_the_daemon(arguments: Sequence[str]) -> bool:
    """Return whether this command line is that of Dagster's daemon, and not of a question to it."""
    program = Path(arguments[0])
    is_daemon = program.name == "dagster-daemon" or program.parent.name == "_daemon"
    return is_daemon and arguments[1:2] == ["run"]


def be_the_only_daemon(home: Path, pause: float = 1.0) -> None:
    """Wait until no other process is the daemon of this Dagster home, and be it until this process ends.

    Two daemons would evaluate every sensor and schedule, and launch every queued run, twice.
    """
    global _daemon_lock
    if _daemon_lock is not None:
        return
    lock = FileLock(home / "daemon.lock")
    if not lock.acquire(wait=False):
        _log.warning(
            "another daemon of %s runs its schedules, sensors and queue, such as that of `ecommersss up`;"
            " this one waits until that one ends",
            home,
        )
        with raise_interrupts_as(KeyboardInterrupt):
            while not lock.acquire(wait=False):
                time.sleep(pause)
    _daemon_lock = lock
