"""Streaming SELECTs out of PostgreSQL: exact types, one snapshot, bounded memory, no connection left over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg2
import pyarrow as pa
import pytest

from ecommersss_platform.contracts import RAW_TABLES, Type
from ecommersss_platform.local.postgres import EmbeddedPostgres, NotUp
from ecommersss_platform.partitions import Days
from ecommersss_platform.resources import PostgresResource

SCHEMA = pa.schema([(t.name.lower(), t.value) for t in Type])
SELECT = f"SELECT {', '.join(SCHEMA.names)} FROM samples WHERE int64 >= %(least)s"


@pytest.fixture
def connection(database: str) -> Iterator[Any]:
    with closing(psycopg2.connect(database)) as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture
def samples(connection: Any) -> Any:
    connection.cursor().execute(
        "CREATE TABLE samples (int64 BIGINT, string TEXT, strings TEXT[], bool BOOLEAN, money NUMERIC(18,2), "
        "timestamp TIMESTAMPTZ, date DATE, float64 DOUBLE PRECISION)"
    )
    return connection


def sessions(connection: Any) -> int:
    """Sessions of extractions that the server has."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ecommersss extraction'"
        )
        return int(cursor.fetchone()[0])


def gone(connection: Any) -> bool:
    deadline = time.monotonic() + 10
    while sessions(connection) and time.monotonic() < deadline:
        time.sleep(0.02)
    return sessions(connection) == 0


def test_every_type_comes_exactly(samples: Any, database: str) -> None:
    midnight, day = datetime(2024, 6, 10, tzinfo=UTC), date(2024, 6, 10)
    last_moment = datetime(2024, 6, 10, 16, 59, 59, 999999, UTC)
    awkward = ["", "x,y", '"q"', "{}", "\\", "NULL", "☂"]
    rows = [
        (2**63 - 1, "plain", ["a", "b"], True, Decimal("9999999999999999.99"), last_moment, day, 0.1),
        (0, "", [], False, Decimal("0.00"), datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1), -1e300),
        (1, 'a,"b"\r\nc\\N\t☂ ', awkward, True, Decimal("-0.01"), midnight, date(2024, 2, 29), 5e-324),
        (2, None, None, None, None, None, None, None),
        (3, "\\.", [None, "a"], False, Decimal("12.30"), midnight, date(9999, 12, 31), 1.0),
        (4, "NULL", ["a", "b"], False, Decimal("1"), midnight, day, 1.0),
    ]
    with samples.cursor() as cursor:
        cursor.executemany("INSERT INTO samples VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", rows)
        cursor.execute("INSERT INTO samples VALUES (-1)")
    names = ["int64", "string", "strings", "bool", "money", "timestamp", "date", "float64"]
    expected = sorted((dict(zip(names, row, strict=True)) for row in rows), key=lambda row: row["int64"])
    result = PostgresResource(url=database).stream(SELECT, {"least": 0}, SCHEMA).read_all()
    assert result.schema.equals(SCHEMA)
    assert sorted(result.to_pylist(), key=lambda row: row["int64"]) == expected
    assert gone(samples)


def test_no_rows(samples: Any, database: str) -> None:
    result = PostgresResource(url=database).stream(SELECT, {"least": 0}, SCHEMA).read_all()
    assert (result.num_rows, result.schema) == (0, SCHEMA)


def test_a_single_column_of_nulls_keeps_its_rows(database: str) -> None:
    sql = "SELECT CASE WHEN n = 2 THEN '' END FROM generate_series(1, 3) AS n"
    result = PostgresResource(url=database).stream(sql, {}, pa.schema([("s", pa.string())])).read_all()
    assert result.column("s").to_pylist() == [None, "", None]


@pytest.mark.parametrize("table", RAW_TABLES, ids=lambda table: table.name)
def test_the_query_of_each_contract_fits_the_database(database: str, table: Any) -> None:
    sql, params = table.select(Days.between(date(2024, 6, 1), date(2024, 6, 3)))
    assert PostgresResource(url=database).stream(sql, params, table.arrow_schema).read_all().num_rows == 0


NUMBERS = pa.schema([("n", pa.int64()), ("text", pa.string())])
MANY = "SELECT n, repeat('x', 100) FROM generate_series(1, %(rows)s) AS n"


def test_many_rows_come_in_batches_of_bounded_size(database: str) -> None:
    largest = rows = total = 0
    for batch in PostgresResource(url=database).stream(MANY, {"rows": 200_000}, NUMBERS, block_bytes=100_000):
        largest = max(largest, batch.nbytes)
        rows += batch.num_rows
        total += sum(batch.column("n").to_pylist())
    assert (rows, total) == (200_000, 200_000 * 200_001 // 2)
    assert largest < 300_000


def test_rows_are_of_one_snapshot(samples: Any, database: str) -> None:
    samples.cursor().execute(
        "INSERT INTO samples SELECT n, repeat('x', 200) FROM generate_series(1, 50000) AS n"
    )
    reader = PostgresResource(url=database).stream(SELECT, {"least": 0}, SCHEMA, block_bytes=50_000)
    rows = reader.read_next_batch().num_rows
    samples.cursor().execute("INSERT INTO samples SELECT n, 'new' FROM generate_series(60001, 60100) AS n")
    samples.cursor().execute("DELETE FROM samples WHERE int64 <= 50000")
    assert rows + sum(batch.num_rows for batch in reader) == 50_000


def test_a_reader_that_is_dropped_closes_its_connection_at_once(samples: Any, database: str) -> None:
    endless = "SELECT a, repeat('x', 100) FROM generate_series(1, 10000) a, generate_series(1, 10000) b"
    reader = PostgresResource(url=database).stream(endless, {}, NUMBERS)
    assert reader.read_next_batch().num_rows > 0
    assert sessions(samples) == 1
    started = time.monotonic()
    del reader
    assert gone(samples)
    assert time.monotonic() - started < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "copy"]


def test_a_reader_that_is_not_read_opens_nothing(samples: Any) -> None:
    PostgresResource(url="postgresql://nobody@127.0.0.1:1/none").stream(MANY, {"rows": 1}, NUMBERS)


def test_an_error_of_the_server_after_many_rows_is_no_short_answer(samples: Any, database: str) -> None:
    sql = "SELECT n, (1 / (150000 - n))::text FROM generate_series(1, 200000) AS n"
    with pytest.raises(psycopg2.errors.DivisionByZero):
        PostgresResource(url=database).stream(sql, {}, NUMBERS).read_all()
    assert gone(samples)


def test_a_connection_that_is_cut_is_no_short_answer(samples: Any, database: str) -> None:
    reader = PostgresResource(url=database).stream(MANY, {"rows": 5_000_000}, NUMBERS)
    reader.read_next_batch()
    samples.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'ecommersss extraction'"
    )
    with pytest.raises(psycopg2.OperationalError):
        reader.read_all()


def test_a_value_that_the_type_cannot_hold_is_an_error(samples: Any, database: str) -> None:
    schema = pa.schema([("m", pa.decimal128(18, 2))])
    with pytest.raises(pa.ArrowInvalid, match="data loss"):
        PostgresResource(url=database).stream("SELECT 0.125", {}, schema).read_all()
    assert gone(samples)


def test_it_cannot_write(samples: Any, database: str) -> None:
    samples.cursor().execute(
        "CREATE FUNCTION f() RETURNS BIGINT LANGUAGE sql AS 'INSERT INTO samples VALUES (1) RETURNING 1'"
    )
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        PostgresResource(url=database).stream("SELECT f()", {}, pa.schema([("n", pa.int64())])).read_all()


def test_without_a_url_the_settings_decide(
    database: str, postgres: EmbeddedPostgres, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", database)
    one = pa.schema([("n", pa.int64())])
    resource = PostgresResource()
    assert resource.stream("SELECT 1", {}, one).read_all().to_pylist() == [{"n": 1}]
    monkeypatch.delenv("ECOMMERSSS_DATABASE_URL")
    with pytest.raises(NotUp):
        resource.stream("SELECT 1", {}, one).read_all()
