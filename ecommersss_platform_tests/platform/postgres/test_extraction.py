"""Extraction from PostgreSQL: exact types, one snapshot, bounded memory, no connection left open."""

from __future__ import annotations

import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pyarrow as pa
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from ecommersss_platform.contracts import RAW_TABLES, Type
from ecommersss_platform.local.postgres import EmbeddedPostgres, NotUp
from ecommersss_platform.partitions import Days
from ecommersss_platform.postgres.resource import PostgresResource

pytestmark = pytest.mark.integration

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
    """Count the server's sessions of extractions."""
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


def test_every_type_is_read_exactly(samples: Any, database: str) -> None:
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


def test_empty_result_has_the_schema(samples: Any, database: str) -> None:
    result = PostgresResource(url=database).stream(SELECT, {"least": 0}, SCHEMA).read_all()
    assert (result.num_rows, result.schema) == (0, SCHEMA)


def test_a_single_column_of_nulls_keeps_its_rows(database: str) -> None:
    sql = "SELECT CASE WHEN n = 2 THEN '' END FROM generate_series(1, 3) AS n"
    result = PostgresResource(url=database).stream(sql, {}, pa.schema([("s", pa.string())])).read_all()
    assert result.column("s").to_pylist() == [None, "", None]


@pytest.mark.parametrize("table", RAW_TABLES, ids=lambda table: table.name)
def test_the_query_of_each_contract_fits_the_database(database: str, table: Any) -> None:
    sql, params = table.select(Days.between(date(2024, 6, 1), date(2024, 6, 3)))
    assert PostgresResource(url=database).stream(sql, params, table.source_schema).read_all().num_rows == 0


NUMBERS = pa.schema([("n", pa.int64()), ("text", pa.string())])
MANY = "SELECT n, repeat('x', 100) FROM generate_series(1, %(rows)s) AS n"


def test_large_results_arrive_in_bounded_batches(database: str) -> None:
    largest = rows = total = 0
    for batch in PostgresResource(url=database).stream(MANY, {"rows": 200_000}, NUMBERS, batch_bytes=100_000):
        largest = max(largest, batch.nbytes)
        rows += batch.num_rows
        total += sum(batch.column("n").to_pylist())
    assert (rows, total) == (200_000, 200_000 * 200_001 // 2)
    assert largest < 300_000


def test_rows_stay_whole_across_batches(database: str) -> None:
    """Read rows full of quotes and line breaks, from empty ones to some that are larger than a batch."""
    sql = r"""SELECT n, repeat(E'"\n,\r\n"', n * 7 %% 4001) FROM generate_series(1, 500) AS n"""
    batches = list(PostgresResource(url=database).stream(sql, {}, NUMBERS, batch_bytes=20_000))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == [{"n": n, "text": '"\n,\r\n"' * (n * 7 % 4001)} for n in range(1, 501)]
    assert len(batches) > 10


def test_floats_and_lists_keep_their_odd_values(database: str) -> None:
    schema = pa.schema([("f", pa.float64()), ("l", pa.list_(pa.string()))])
    sql = """SELECT f, l::text[] FROM (VALUES ('-inf'::float8, '[2:3]={a,NULL}'), (0, '{""}')) AS t(f, l)"""
    rows = PostgresResource(url=database).stream(sql, {}, schema).read_all().to_pylist()
    assert rows == [{"f": float("-inf"), "l": ["a", None]}, {"f": 0.0, "l": [""]}]
    with pytest.raises(psycopg2.DataError, match="column l"):
        PostgresResource(url=database).stream(
            "SELECT 1.0::float8, '{{a},{b}}'::text[]", {}, schema
        ).read_all()


def test_rows_are_of_one_snapshot(samples: Any, database: str) -> None:
    samples.cursor().execute(
        "INSERT INTO samples SELECT n, repeat('x', 200) FROM generate_series(1, 50000) AS n"
    )
    reader = PostgresResource(url=database).stream(SELECT, {"least": 0}, SCHEMA, batch_bytes=50_000)
    rows = reader.read_next_batch().num_rows
    samples.cursor().execute("INSERT INTO samples SELECT n, 'new' FROM generate_series(60001, 60100) AS n")
    samples.cursor().execute("DELETE FROM samples WHERE int64 <= 50000")
    assert rows + sum(batch.num_rows for batch in reader) == 50_000


def test_dropped_reader_closes_its_connection_at_once(samples: Any, database: str) -> None:
    endless = "SELECT a, repeat('x', 100) FROM generate_series(1, 10000) a, generate_series(1, 10000) b"
    reader = PostgresResource(url=database).stream(endless, {}, NUMBERS)
    assert reader.read_next_batch().num_rows > 0
    assert sessions(samples) == 1
    started = time.monotonic()
    del reader
    assert gone(samples)
    assert time.monotonic() - started < 5


def test_unread_reader_opens_nothing(samples: Any) -> None:
    PostgresResource(url="postgresql://nobody@127.0.0.1:1/none").stream(MANY, {"rows": 1}, NUMBERS)


def test_server_error_after_many_rows_is_raised(samples: Any, database: str) -> None:
    sql = "SELECT n, (1 / (150000 - n))::text FROM generate_series(1, 200000) AS n"
    reader = PostgresResource(url=database).stream(sql, {}, NUMBERS)
    with pytest.raises(psycopg2.DatabaseError, match="division by zero") as raised:
        reader.read_all()
    assert not isinstance(raised.value, psycopg2.OperationalError)
    assert gone(samples)


def test_immediate_server_error_keeps_its_class(database: str) -> None:
    with pytest.raises(psycopg2.errors.UndefinedTable, match="nowhere"):
        PostgresResource(url=database).stream("SELECT 1, x FROM nowhere", {}, NUMBERS).read_all()


def test_unreachable_server_is_an_operational_error_without_the_password(database: str) -> None:
    secret = "se'cret\\"
    for url in (
        make_dsn(database, password=secret),
        make_dsn(database, port=1),
        make_dsn(database, sslmode="require"),
    ):
        with pytest.raises(psycopg2.OperationalError) as raised:
            PostgresResource(url=url).stream("SELECT 1", {}, pa.schema([("n", pa.int64())])).read_all()
        assert secret not in str(raised.value)


def test_every_form_of_connection_string_works(connection: Any, database: str, open_directory: Path) -> None:
    """Connect with an odd password by TCP and by socket, as a URL and in libpq's own form."""
    password = "o'dd \\ p@ss:w/rd?&%=ü"
    parts = parse_dsn(database)
    user, host, port, name = (parts[key] for key in ("user", "host", "port", "dbname"))
    quoted = quote(password, safe="")
    urls = [
        make_dsn(database, password=password),
        f"postgresql://{user}:{quoted}@{host}:{port}/{name}?sslmode=prefer&channel_binding=prefer",
        f"postgresql://{user}:{quoted}@/{name}?host={quote(str(open_directory), safe='')}&port={port}",
    ]
    schema = pa.schema([("who", pa.string())])
    sql = "SELECT current_user::text"
    alter = f"ALTER ROLE {user} PASSWORD %s"
    connection.cursor().execute(alter, (password,))
    try:
        with Cutter(database, socket_file=open_directory / f".s.PGSQL.{port}") as proxy:
            answers = [
                PostgresResource(url=url).stream(sql, {}, schema).read_all().to_pylist() for url in urls
            ]
    finally:
        connection.cursor().execute(alter, (parts["password"],))
    assert answers == [[{"who": user}]] * 3
    assert proxy.passed > 0, "the third one went through the socket"


# The server is sending rows, or busy between two of them.
WAITS = "SELECT n, CASE WHEN n > 100000 THEN pg_sleep(60)::text END FROM generate_series(1, 200000) AS n"


@pytest.mark.parametrize("sql", [MANY, WAITS], ids=["sends", "waits"])
def test_terminated_session_is_an_error(samples: Any, database: str, sql: str) -> None:
    reader = PostgresResource(url=database).stream(sql, {"rows": 5_000_000}, NUMBERS, batch_bytes=100_000)
    reader.read_next_batch()
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'ecommersss extraction'"
    )
    timer = threading.Timer(0.3, lambda: samples.cursor().execute(end))
    timer.start()
    with pytest.raises(psycopg2.OperationalError):
        reader.read_all()
    timer.join()


def test_cut_connection_is_an_error_wherever_it_is_cut(database: str) -> None:
    sql, rows = "SELECT n, 'x' FROM generate_series(1, 3) AS n", [1, 2, 3]
    with Cutter(database) as cutter:
        assert cutter.read(sql, None) == rows
        whole = cutter.passed
        for missing in (7, 20, 40, 60, 80, 100, 1000):
            with pytest.raises(psycopg2.OperationalError):
                cutter.read(sql, whole - missing)


class Cutter:
    """A proxy that cuts the connection after a number of bytes of the server's answer.

    `socket_file`: the Unix socket to listen on; unset: a port.
    """

    def __init__(self, url: str, socket_file: Path | None = None) -> None:
        self.url, self.passed, self._socket_file = url, 0, socket_file
        self._limit: int | None = None

    def __enter__(self) -> Cutter:
        if self._socket_file is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
        else:
            self._listener = socket.create_server(str(self._socket_file), family=socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def read(self, sql: str, limit: int | None) -> list[int]:
        """Read through a connection that is cut after `limit` bytes (None: never)."""
        self.passed, self._limit = 0, limit
        url = make_dsn(self.url, host="127.0.0.1", port=self._listener.getsockname()[1], sslmode="disable")
        return PostgresResource(url=url).stream(sql, {}, NUMBERS).read_all().column("n").to_pylist()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client, socket.create_connection(self._server()) as server:
                    self._relay(client, server)

    def _server(self) -> tuple[str, int]:
        parts = parse_dsn(self.url)
        return parts["host"], int(parts["port"])

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for ready in select.select([client, server], [], [], 10)[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                if ready is client:
                    server.sendall(data)
                    continue
                room = len(data) if self._limit is None else max(0, self._limit - self.passed)
                self.passed += len(data)
                client.sendall(data[:room])
                if room < len(data):
                    return


def test_value_that_does_not_fit_its_type_is_an_error(samples: Any, database: str) -> None:
    schema = pa.schema([("m", pa.decimal128(18, 2))])
    with pytest.raises(pa.ArrowInvalid, match="data loss"):
        PostgresResource(url=database).stream("SELECT 0.125", {}, schema).read_all()
    assert gone(samples)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("'infinity'::timestamptz", pa.timestamp("us", tz="UTC")),
        ("'-infinity'::timestamptz", pa.timestamp("us", tz="UTC")),
        ("'294276-12-31'::timestamptz", pa.timestamp("us", tz="UTC")),
        ("'infinity'::date", pa.date32()),
        ("'-infinity'::date", pa.date32()),
        ("'10000-01-01'::date", pa.date32()),
        ("'0044-03-15 BC'::date", pa.date32()),
    ],
)
def test_infinity_and_years_out_of_range_are_errors(database: str, value: str, type_: pa.DataType) -> None:
    sql = f"SELECT now()::{'date' if type_ == pa.date32() else 'timestamptz'} UNION ALL SELECT {value}"
    with pytest.raises(psycopg2.DataError, match="column t holds infinity"):
        PostgresResource(url=database).stream(sql, {}, pa.schema([("t", type_)])).read_all()


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("1.5::float8", pa.decimal128(18, 2)),
        ("now()::timestamp", pa.timestamp("us", tz="UTC")),
        ("'1'::text", pa.int64()),
        ("1.5", pa.float64()),
        ("1", pa.string()),
        ("ARRAY[1]", pa.list_(pa.string())),
    ],
)
def test_type_that_needs_a_guess_is_refused(database: str, value: str, type_: pa.DataType) -> None:
    with pytest.raises(psycopg2.ProgrammingError, match=r"column c comes as .* cast it in the SELECT"):
        PostgresResource(url=database).stream(f"SELECT {value}", {}, pa.schema([("c", type_)])).read_all()


def test_parameters_are_never_sql(database: str) -> None:
    texts = ["'; DROP TABLE orders; --", "\\' OR 1=1 --", "%(other)s", "☂ ü"]
    sql = "SELECT %(a)s || %(b)s || %(c)s || %(d)s AS text, %(n)s::bigint AS n"
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    params = {**dict(zip("abcd", texts, strict=True)), "n": 2**62}
    rows = PostgresResource(url=database).stream(sql, params, schema).read_all()
    assert rows.to_pylist() == [{"text": "".join(texts), "n": 2**62}]


def test_extraction_cannot_write(samples: Any, database: str) -> None:
    samples.cursor().execute(
        "CREATE FUNCTION f() RETURNS BIGINT LANGUAGE sql AS 'INSERT INTO samples VALUES (1) RETURNING 1'"
    )
    with pytest.raises(psycopg2.DatabaseError, match="read-only transaction"):
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


@pytest.mark.usefixtures("restarted_calls")
def test_an_interrupt_does_not_wait_for_the_next_rows(connection: Any, database: str) -> None:
    main = threading.main_thread().ident
    assert main is not None
    batches = PostgresResource(url=database).stream(
        "SELECT 1::bigint AS n FROM pg_sleep(60)", {}, pa.schema([("n", pa.int64())])
    )
    threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(batches)
    assert time.monotonic() - began < 20
    assert gone(connection), "the server stopped too"
