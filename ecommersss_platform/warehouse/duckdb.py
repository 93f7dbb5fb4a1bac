"""The embedded warehouse: one DuckDB file.

DuckDB lets one process write at a time, and no one read meanwhile. So the file is open only while someone
works, and whoever finds it taken waits with back-off until a deadline.
"""

from __future__ import annotations

import random
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import (
    AuditError,
    OnStep,
    Published,
    QueryError,
    SchemaError,
    Step,
    TableNotFound,
    WarehouseBusy,
    WarehouseError,
    no_report,
)
from ecommersss_platform.warehouse.arrow import Tally, asked_schema, conformed, plain
from ecommersss_platform.warehouse.audit import (
    Dialect,
    audit_sql,
    day_filter,
    findings,
    per_day,
    tally_sql,
)
from ecommersss_platform.warehouse.evolution import TableColumn, changes
from ecommersss_platform.warehouse.names import STAGING, full_name, split_name, staging_name
from streaming.orders import JAKARTA

POOL = "duckdb"

_SPOOL_IN_MEMORY = 64 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
# 8 of DuckDB's own, and some for what they are kept in.
_BYTES_PER_DELETED_ROW = 10

_TYPES = {
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.list_(pa.string()): "VARCHAR[]",
    pa.bool_(): "BOOLEAN",
    pa.decimal128(18, 2): "DECIMAL(18,2)",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.date32(): "DATE",
}
"""DuckDB's own names, as its catalog prints them, of the types in `contracts.Type`."""

# Writers of this process, one at a time for each file: DuckDB itself would let two of them share it.
_writers: dict[Path, threading.Lock] = {}
_writers_guard = threading.Lock()


def quote(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


DIALECT = Dialect(
    quote=quote, business_day=lambda instant: f"CAST({instant} AT TIME ZONE '{JAKARTA}' AS DATE)"
)


@dataclass(frozen=True)
class DuckDbWarehouse:
    """A warehouse in the file `path`, made when something is first published.

    `memory`, and `writing_megabytes` while it publishes, bound what DuckDB itself holds; beyond it, it spills
    next to the file. Only rows that are replaced take more, see `_swap`. `patience` is how many seconds to
    wait for a file that another process has open.
    """

    path: Path
    memory: str = "128MB"
    writing_megabytes: int = 64
    threads: int = 2
    patience: float = 300.0

    @property
    def pool(self) -> str | None:
        return POOL

    def publish(
        self,
        table: RawTable,
        rows: pa.RecordBatchReader,
        days: Days | None,
        run_id: str,
        on_step: OnStep = no_report,
    ) -> Published:
        name = full_name(table)
        tally = Tally(conformed(rows, table.arrow_schema, name))
        staging = f"{STAGING}.{quote(staging_name(table, run_id))}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing() as connection:
            started = time.monotonic()
            _drop_dead_staging(connection)
            migration = _migration(connection, table, replace=days is None)
            on_step(Step.OPENED)
            try:
                _stage(connection, table, staging, tally)
                on_step(Step.STAGED)
                # Looking for repeated keys needs memory for each thread that it cannot spill.
                connection.execute("SET threads = 1")
                _audit(connection, table, staging, days, tally.rows)
                rows_per_day, statuses = _count(connection, table, staging, days)
                connection.execute(f"SET threads = {self.threads}")
                on_step(Step.AUDITED)
                staged = time.monotonic()
                _swap(connection, table, staging, days, migration, self.writing_megabytes)
            except BaseException:
                # What cannot be dropped now is dropped by the next writer.
                with suppress(duckdb.Error):
                    connection.execute(f"DROP TABLE IF EXISTS {staging}")
                raise
            published = time.monotonic()
            on_step(Step.PUBLISHED)
        return Published(
            table=name,
            days=days,
            rows=tally.rows,
            bytes=tally.bytes,
            stage_seconds=staged - started,
            publish_seconds=published - staged,
            rows_per_day=rows_per_day,
            statuses=statuses,
        )

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        name = full_name(table)
        with self._reading() as connection:
            existing = [c.name for c in _columns(connection, table)]
            if not existing:
                raise TableNotFound(f"{name} is not in {self.path} yet: materialise it first")
            schema = asked_schema(table, columns, existing)
            selected = _selected(schema, columns, existing)
            where = f" WHERE {day_filter(days)}" if days else ""
            sql = f"SELECT {selected} FROM {_quoted(table)}{where}"  # noqa: S608
            try:
                return _spooled(connection.execute(sql).to_arrow_reader(), schema)
            except duckdb.BinderException as error:
                raise SchemaError(f"{name}: {_first_line(error)}") from error

    def query(self, sql: str) -> pa.Table:
        with self._reading() as connection:
            # Rows of the warehouse, not files or variables of whoever asks.
            connection.execute("SET enable_external_access = false")
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET lock_configuration = true")
            try:
                statements = connection.extract_statements(sql)
                if len(statements) != 1:
                    raise QueryError(f"one statement at a time; this is {len(statements)}: {sql.strip()!r}")
                return connection.execute(statements[0]).to_arrow_table()
            except duckdb.Error as error:
                raise QueryError(str(error)) from error

    def newest_day(self, table: RawTable | str) -> date | None:
        try:
            with self._reading() as connection:
                if not _columns(connection, table):
                    return None
                sql = f"SELECT max({PARTITION_COLUMN}) FROM {_quoted(table)}"  # noqa: S608
                row = connection.execute(sql).fetchone()
                return row[0] if row else None
        except TableNotFound:
            return None

    @contextmanager
    def _writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with _writers_guard:
            lock = _writers.setdefault(self.path.resolve(), threading.Lock())
        deadline = time.monotonic() + self.patience
        if not lock.acquire(timeout=self.patience):
            raise WarehouseBusy(
                f"{self.path}: another thread of this process wrote for over {self.patience:g} s"
            )
        try:
            connection = self._open(read_only=False, deadline=deadline)
            try:
                yield connection
            finally:
                connection.close()
        finally:
            lock.release()

    @contextmanager
    def _reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if not self.path.exists():
            raise TableNotFound(
                f"there is no warehouse at {self.path} yet: materialise a day first "
                "(`ecommersss materialize --from DAY --to DAY`, or from the Dagster UI)"
            )
        connection = self._open(read_only=True, deadline=time.monotonic() + self.patience)
        try:
            yield connection
        finally:
            connection.close()

    def _open(self, *, read_only: bool, deadline: float) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": self.memory if read_only else f"{self.writing_megabytes}MB",
            "threads": str(self.threads),
            "preserve_insertion_order": "false",
        }
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only, config=config)
            except duckdb.Error as error:
                if not is_taken(str(error)):
                    raise WarehouseError(f"{self.path} could not be opened: {_first_line(error)}") from error
                if time.monotonic() >= deadline:
                    raise WarehouseBusy(busy_message(self.path, str(error), self.patience)) from error
                time.sleep(min(random.uniform(0, pause), max(0.0, deadline - time.monotonic())))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                connection.execute("SET TimeZone = 'UTC'")
                return connection


def is_taken(message: str) -> bool:
    """Whether DuckDB says that another process has the file, or this one in the other mode."""
    return "Could not set lock on file" in message or "with a different configuration" in message


def busy_message(path: Path, message: str, waited: float) -> str:
    holder = re.search(r"held in (.+?) \(PID (\d+)\)", message)
    who = f"process {holder[2]} ({holder[1]})" if holder else "another connection of this process"
    return f"{path} was held by {who} for over {waited:g} s: wait until it is done, or end it, and run again"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _quoted(table: RawTable | str) -> str:
    return ".".join(quote(part) for part in split_name(table))


def _drop_dead_staging(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop every staging table: all are dead.

    A staging table lives only while its writer has the file open, from staging to publishing. We are the
    only process that has it open for writing, and the only writer in this process. So whoever made a table
    that is here now was killed.
    """
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {STAGING}")
    # Nothing here passes parameters: for their values DuckDB's client loads pandas, and 50 MB with it.
    dead = connection.execute(
        "SELECT table_name FROM duckdb_tables() "  # noqa: S608
        f"WHERE database_name = current_database() AND schema_name = {_text(STAGING)}"
    ).fetchall()
    for (name,) in dead:
        connection.execute(f"DROP TABLE {STAGING}.{quote(name)}")


def _columns(connection: duckdb.DuckDBPyConnection, table: RawTable | str) -> list[TableColumn]:
    """The columns of a table or view; none when it does not exist."""
    schema, name = split_name(table)
    rows = connection.execute(
        "SELECT column_name, data_type, is_nullable FROM duckdb_columns() "  # noqa: S608
        f"WHERE database_name = current_database() AND schema_name = {_text(schema)} "
        f"AND table_name = {_text(name)} ORDER BY column_index"
    ).fetchall()
    return [TableColumn(*row) for row in rows]


def _migration(connection: duckdb.DuckDBPyConnection, table: RawTable, *, replace: bool) -> list[str]:
    """The statements that make the table fit the contract: none, a CREATE, or ALTERs.

    Raises SchemaError for a table that cannot follow. A table that is replaced whole is made anew.
    """
    wanted = [TableColumn(c.name, _TYPES[c.type.value], c.nullable) for c in table.columns]
    existing = _columns(connection, table)
    name = _quoted(table)
    if not existing or replace:
        columns = ", ".join(f"{quote(c.name)} {c.type}{'' if c.nullable else ' NOT NULL'}" for c in wanted)
        return [
            f"CREATE SCHEMA IF NOT EXISTS {quote(table.dataset)}",
            f"CREATE OR REPLACE TABLE {name} ({columns})",
            f"COMMENT ON TABLE {name} IS {_text(table.description)}",
            *(f"COMMENT ON COLUMN {name}.{quote(c.name)} IS {_text(c.description)}" for c in table.columns),
        ]
    todo = changes(full_name(table), existing, wanted)
    described = {c.name: c.description for c in table.columns}
    return [
        *(f"ALTER TABLE {name} ADD COLUMN {quote(c.name)} {c.type}" for c in todo.added),
        *(f"COMMENT ON COLUMN {name}.{quote(c.name)} IS {_text(described[c.name])}" for c in todo.added),
        *(f"ALTER TABLE {name} ALTER COLUMN {quote(c.name)} DROP NOT NULL" for c in todo.relaxed),
    ]


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _stage(connection: duckdb.DuckDBPyConnection, table: RawTable, staging: str, tally: Tally) -> None:
    # No constraints: the audit names what is wrong, a constraint would name only the first.
    columns = ", ".join(f"{quote(c.name)} {_TYPES[c.type.value]}" for c in table.columns)
    connection.execute(f"CREATE TABLE {staging} ({columns})")
    # As the bare stream: given a reader, DuckDB's client loads pyarrow.dataset to ask what it is.
    connection.register("extracted", tally.reader.__arrow_c_stream__())
    try:
        connection.execute(f"INSERT INTO {staging} SELECT * FROM extracted")  # noqa: S608
    except duckdb.Error as error:
        raise tally.error or WarehouseError(f"staging failed: {_first_line(error)}") from error
    finally:
        connection.unregister("extracted")


def _audit(
    connection: duckdb.DuckDBPyConnection, table: RawTable, staging: str, days: Days | None, extracted: int
) -> None:
    cursor = connection.execute(audit_sql(table, staging, days, DIALECT))
    row = cursor.fetchone()
    assert row is not None
    found = findings(table, days, extracted, dict(zip([c[0] for c in cursor.description], row, strict=True)))
    if found:
        raise AuditError(full_name(table), days, found)


def _count(
    connection: duckdb.DuckDBPyConnection, table: RawTable, staging: str, days: Days | None
) -> tuple[dict[date, int], dict[date, dict[str, int]]]:
    """Staged rows per day, and per day and status."""
    if days is None:
        return {}, {}
    return per_day(table, days, connection.execute(tally_sql(table, staging, DIALECT)).fetchall())


def _swap(
    connection: duckdb.DuckDBPyConnection,
    table: RawTable,
    staging: str,
    days: Days | None,
    migration: list[str],
    megabytes: int,
) -> None:
    """Publish: one transaction, of which a crash leaves nothing or everything.

    Until it ends DuckDB remembers each deleted row in memory that it cannot spill, and ends the process when
    it cannot even roll back: so it gets the memory for them on top.
    """
    columns = ", ".join(quote(c.name) for c in table.columns)
    connection.execute("BEGIN TRANSACTION")
    for statement in migration:
        connection.execute(statement)
    if days is not None:
        those_days = f"FROM {_quoted(table)} WHERE {day_filter(days)}"
        replaced = connection.execute(f"SELECT count(*) {those_days}").fetchall()[0][0]
        megabytes += replaced * _BYTES_PER_DELETED_ROW // 1_000_000
        connection.execute(f"SET memory_limit = '{megabytes}MB'")
        connection.execute(f"DELETE {those_days}")
    connection.execute(f"INSERT INTO {_quoted(table)} ({columns}) SELECT {columns} FROM {staging}")  # noqa: S608
    connection.execute(f"DROP TABLE {staging}")
    connection.execute("COMMIT")


def _selected(schema: pa.Schema | None, columns: Sequence[str] | None, existing: Sequence[str]) -> str:
    """The SELECT list. A column that the contract has just gained is NULL until it is first published."""
    if schema is None:
        return ", ".join(quote(c) for c in columns or existing)
    return ", ".join(
        quote(f.name) if f.name in existing else f"NULL::{_TYPES[f.type]} AS {quote(f.name)}" for f in schema
    )


def _spooled(rows: pa.RecordBatchReader, schema: pa.Schema | None) -> pa.RecordBatchReader:
    """The same rows, read now and handed out later: from memory, or from a temporary file when many."""
    schema = schema or pa.schema([plain(f) for f in rows.schema])
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY)  # noqa: SIM115
    with pa.ipc.new_stream(spool, schema) as writer:
        for batch in rows:
            writer.write_batch(batch.cast(schema))
    spool.seek(0)

    def batches() -> Iterator[pa.RecordBatch]:
        with spool:
            yield from pa.ipc.open_stream(spool)

    return pa.RecordBatchReader.from_batches(schema, batches())
