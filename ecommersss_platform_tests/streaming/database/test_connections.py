"""Sessions that do not depend on the environment, the role, the database or the URL."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from sqlalchemy import create_engine, text

from ecommersss_platform.postgres.extraction import read_batches
from ecommersss_platform_tests.support.migrations import downgrade
from ecommersss_platform_tests.support.shop import execute, query
from streaming.database import VERSION_TABLE, connect, migrate
from streaming.database.urls import pinned_url
from streaming.libpq import drop_libpq_variables

pytestmark = pytest.mark.integration

SETTINGS = {
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "standard_conforming_strings": "on",
}
HOSTILE = {
    "PGCLIENTENCODING": "LATIN1",
    "PGSSLMODE": "require",
    "PGSERVICE": "none",
    "PGHOSTADDR": "192.0.2.1",
    "PGCHANNELBINDING": "require",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PGDATESTYLE": "German",
    "PGTZ": "Asia/Tokyo",
    "PGTARGETSESSIONATTRS": "read-only",
}


@pytest.fixture
def hostile(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst environment, set once the test's database exists."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)


def _spoil(url: str) -> None:
    """Give the database other defaults for its sessions."""
    database = url.rpartition("/")[2]
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for name, value in {
            "client_encoding": "LATIN1",
            "timezone": "Asia/Tokyo",
            "datestyle": "German",
            "default_transaction_isolation": "serializable",
            "default_transaction_read_only": "on",
            "standard_conforming_strings": "off",
        }.items():
            cursor.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")


def _settings(connection: Any) -> dict[str, str]:
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(SETTINGS),))
        return dict(cursor.fetchall())


@pytest.mark.usefixtures("hostile")
def test_sessions_are_the_same_whatever_environment_database_and_url_say(database: str) -> None:
    drop_libpq_variables()
    _spoil(database)
    url = f"{database}?client_encoding=LATIN1&options=-c%20timezone%3DEurope/Paris%20-c%20work_mem%3D5MB"
    assert _settings(connect(url)) == SETTINGS
    assert _settings(psycopg2.connect(pinned_url(pinned_url(url)))) == SETTINGS, "as Dagster connects"
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('work_mem'), 'Crédit'")
        assert cursor.fetchone() == ("5MB", "Crédit"), "other options of the URL stay"
    with create_engine(pinned_url(url)).connect() as alchemy:
        assert alchemy.execute(text("SHOW timezone")).scalar() == "UTC"


@pytest.mark.usefixtures("hostile")
def test_migration_and_extraction_ignore_the_environment(database: str) -> None:
    # libpq's variables are dropped by the first connection of a process that nothing of ours started.
    migrate(database)
    schema = pa.schema([("timezone", pa.string()), ("text", pa.string()), ("read_only", pa.string())])
    sql = "SELECT current_setting('TimeZone'), 'Crédit'::text, current_setting('transaction_read_only')"
    [batch] = read_batches(database, sql, {}, schema, 1 << 20)
    assert batch.to_pylist() == [{"timezone": "UTC", "text": "Crédit", "read_only": "on"}]


def test_only_credentials_stay_in_the_environment() -> None:
    code = (
        "import os; from streaming.libpq import drop_libpq_variables; drop_libpq_variables();"
        " print(sorted(name for name in os.environ if name.startswith('PG')))"
    )
    environment = {**os.environ, **HOSTILE, "PGPASSWORD": "secret", "PGPASSFILE": "/none"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "['PGPASSFILE', 'PGPASSWORD']\n"


def test_the_version_table_of_an_older_platform_is_taken_over(database: str) -> None:
    [revision] = query(database, f"SELECT version_num FROM {VERSION_TABLE}")
    downgrade(database, "0004")  # the last one of that platform
    execute(database, f"ALTER TABLE {VERSION_TABLE} RENAME TO alembic_version")
    assert (migrate(database),) == revision
    assert query(database, "SELECT to_regclass('alembic_version')") == [(None,)]


def test_the_version_table_of_another_program_is_left_alone(database: str) -> None:
    with closing(connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE alembic_version AS SELECT 'another' AS version_num")
    migrate(database)
    assert query(database, "SELECT version_num FROM alembic_version") == [("another",)]
