"""The operational database: connecting to it and bringing its schema up to date."""

from __future__ import annotations

from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

MIGRATIONS = Path(__file__).parent / "migrations"
# An arbitrary number, the same in every process: it keeps two migrations from running at once.
_MIGRATION_LOCK = 6_203_541


def connect(url: str, application: str = "ecommersss") -> Connection:
    """Connect with a session in UTC, so that instants as text never depend on the server.

    A server whose machine vanished is noticed within a minute. Raises `psycopg2.OperationalError` if the
    server is not reached.
    """
    return psycopg2.connect(conninfo(url, application))


def conninfo(url: str, application: str, **more: str) -> str:
    """Return the parameters of every connection as libpq's connection string, including the password.

    `more` adds or replaces parameters. Raises `psycopg2.ProgrammingError` for a URL that libpq does not
    understand.
    """
    ours: dict[str, str | int] = {
        "application_name": application,
        "options": "-c timezone=UTC",
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
    }
    return make_dsn(url, **{**ours, **more})


def migrate(url: str) -> str:
    """Bring the schema up to date and return its revision. Idempotent, and safe to call concurrently.

    Raises `sqlalchemy.exc.OperationalError` if the server is not reached.
    """
    # Alembic and SQLAlchemy take a third of a second to import, and only this function needs them.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import NullPool, create_engine, text

    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        revision = MigrationContext.configure(connection).get_current_revision()
    assert revision is not None
    return revision
