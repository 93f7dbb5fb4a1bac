"""The operational database: connecting to it and bringing its schema up to date."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from streaming.libpq import drop_libpq_variables
from streaming.roles import grant_rights

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
# An arbitrary number, the same in every process: it keeps two migrations from running at once.
_MIGRATION_LOCK = 6_203_541

VERSION_TABLE = "ecommersss_schema_version"
"""The table in which Alembic keeps the revision. Its default name could belong to another program."""

# Earlier versions of the platform used Alembic's default name.
_RENAME_VERSION_TABLE = f"""
DO $$ BEGIN
    IF to_regclass('{VERSION_TABLE}') IS NULL AND to_regclass('alembic_version') IS NOT NULL
       AND to_regclass('topic_positions') IS NOT NULL THEN
        IF EXISTS (SELECT FROM alembic_version WHERE version_num IN ('0001', '0002', '0003', '0004')) THEN
            ALTER TABLE alembic_version RENAME TO {VERSION_TABLE};
        END IF;
    END IF;
END $$
"""

_SESSION = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c bytea_output=hex"
    " -c standard_conforming_strings=on -c default_transaction_isolation=read\\ committed"
)


def connect(url: str, application: str = "ecommersss") -> Connection:
    """Connect with a session whose settings are pinned: see `conninfo`.

    A server whose machine vanished is noticed within a minute. Raises `psycopg2.OperationalError` if the
    server is not reached.
    """
    return psycopg2.connect(conninfo(url, application))


def rows_by_name(
    connection: Connection, sql: str, parameters: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the rows of a query, each by the names of its columns."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        assert cursor.description
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def conninfo(url: str, application: str, *, read_only: bool = False) -> str:
    """Return the parameters of every connection as libpq's connection string, including the password.

    What a session depends on is set here, and wins over the environment, the role, the database and the URL.
    Other `options` of the URL, such as a search path, stay. Raises `psycopg2.ProgrammingError` for a URL that
    libpq does not understand.
    """
    drop_libpq_variables()
    return make_dsn(
        url,
        application_name=application,
        client_encoding="UTF8",
        options=session_options(parse_dsn(url).get("options", ""), read_only=read_only),
        connect_timeout=10,
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
    )


def session_options(others: str, *, read_only: bool = False) -> str:
    """Return the server's command-line options: those of the URL, then ours, because the last one wins."""
    ours = f"{_SESSION} -c default_transaction_read_only={'on' if read_only else 'off'}"
    return f"{others.removesuffix(ours).strip()} {ours}".strip()


def migrate(url: str) -> str:
    """Bring the schema and the roles' rights up to date, and return the schema's revision.

    Idempotent, and safe to call concurrently. Any role of `streaming.roles` may call it for a schema
    that is up to date.

    Raises `sqlalchemy.exc.OperationalError` if the server is not reached.
    """
    # Alembic and SQLAlchemy take a third of a second to import, and only this function needs them.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import NullPool, create_engine, text

    engine = create_engine(
        "postgresql+psycopg2://", creator=lambda: connect(url, "ecommersss migration"), poolclass=NullPool
    )
    with engine.begin() as connection:
        free = connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({_MIGRATION_LOCK})"))
        if not free:
            logger.warning("another process is bringing the schema up to date: waiting for it")
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        connection.execute(text(_RENAME_VERSION_TABLE))
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        before = context.get_current_revision()
        command.upgrade(config, "head")
        revision = context.get_current_revision()
        grant_rights(connection, migrated=revision != before)
    assert revision is not None
    return revision
