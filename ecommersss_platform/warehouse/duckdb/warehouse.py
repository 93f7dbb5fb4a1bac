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
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from ecommersss_platform.contracts import LOAD_LOG, PARTITION_COLUMN, RawTable
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import (
    Job,
    OnStep,
    Published,
    QueryError,
    SchemaError,
    TableNotFound,
    WarehouseBusy,
    WarehouseError,
    no_report,
)
from ecommersss_platform.warehouse.arrow import Tally, asked_schema, plain
from ecommersss_platform.warehouse.audit import Dialect, audit_sql, day_filter, tally_sql
from ecommersss_platform.warehouse.load_log import Entry, append_sql
from ecommersss_platform.warehouse.names import STAGING, full_name, split_name, staging_name
from ecommersss_platform.warehouse.publication import Publication, write_audit_publish
from ecommersss_platform.warehouse.schema_changes import (
    TableColumn,
    changes,
    check_losses,
    losses_sql,
    migration,
    selected,
)
from streaming.business_days import JAKARTA

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
    quote=quote,
    business_day=lambda instant: f"CAST({instant} AT TIME ZONE '{JAKARTA}' AS DATE)",
    try_cast=lambda value, type_: f"TRY_CAST({value} AS {type_})",
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

    def check_access(self) -> None:
        pass  # a file, and who may write it is known when it is opened

    def publish(
        self,
        table: RawTable,
        rows: pa.RecordBatchReader,
        days: Days | None,
        run_id: str,
        on_step: OnStep = no_report,
    ) -> Published:
        return write_audit_publish(self._publication, table, rows, days, run_id, on_step)

    @contextmanager
    def _publication(self, table: RawTable, days: Days | None, run_id: str) -> Iterator[Publication]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing() as connection:
            yield _Publication(self, connection, table, days, run_id)

    def migrate(
        self, table: RawTable, renames: Mapping[str, str], drops: Collection[str], *, dry_run: bool = False
    ) -> tuple[str, ...]:
        name, target = full_name(table), _quoted(table)
        self._must_exist()
        with self._reading() if dry_run else self._writing() as connection:
            existing = _columns(connection, table)
            if not existing:
                raise self._not_found(name)
            todo = migration(name, existing, wanted_columns(table), renames, drops)
            if not todo.told:
                return ()
            if sql := losses_sql(todo, target, DIALECT):
                check_losses(todo, connection.execute(sql).to_arrow_table().to_pylist()[0])
            if not dry_run:
                old = f"{table.name}__old"
                made = ";".join(_migration(connection, table, replace=True))
                source = _quoted(f"{table.dataset}.{old}")
                connection.execute(
                    f"BEGIN TRANSACTION; ALTER TABLE {target} RENAME TO {quote(old)}; {made}; "  # noqa: S608
                    f"INSERT INTO {target} SELECT {selected(todo, DIALECT)} FROM {source}; "
                    f"DROP TABLE {source}; COMMIT"
                )
            return todo.told

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        name = full_name(table)
        with self._reading() as connection:
            existing = [c.name for c in _columns(connection, table)]
            if not existing:
                raise self._not_found(name)
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

    def _must_exist(self) -> None:
        if not self.path.exists():
            raise TableNotFound(
                f"there is no warehouse at {self.path} yet: materialise a day first "
                "(`ecommersss materialize --from DAY --to DAY`, or from the Dagster UI)"
            )

    def _not_found(self, name: str) -> TableNotFound:
        return TableNotFound(f"{name} is not in {self.path} yet: materialise it first")

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
        self._must_exist()
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
    try:
        # Ten times as fast as the catalog's views. Not for within a transaction, which the error would end.
        # The name as text: with parameters, DuckDB's client loads pandas to ask what they are.
        sql = f'SELECT name, type, NOT "notnull" FROM pragma_table_info({_text(_quoted(table))})'  # noqa: S608
        rows = connection.execute(sql).fetchall()
    except duckdb.CatalogException:
        return []
    return [TableColumn(*row) for row in rows]


def wanted_columns(table: RawTable) -> list[TableColumn]:
    return [TableColumn(c.name, _TYPES[c.type.value], c.nullable) for c in table.columns]


def _migration(connection: duckdb.DuckDBPyConnection, table: RawTable, *, replace: bool) -> list[str]:
    """The statements that make the table fit the contract: none, a CREATE, or ALTERs.

    Raises SchemaError for a table that cannot follow. A table that is replaced whole is made anew.
    """
    wanted = wanted_columns(table)
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


class _Publication:
    """A publication on an open connection that may write."""

    jobs: Sequence[Job] = ()

    def __init__(
        self,
        warehouse: DuckDbWarehouse,
        connection: duckdb.DuckDBPyConnection,
        table: RawTable,
        days: Days | None,
        run_id: str,
    ) -> None:
        self._warehouse, self._connection = warehouse, connection
        self._table, self._days = table, days
        self._staging = f"{STAGING}.{quote(staging_name(table, run_id))}"
        self._migration: list[str] = []

    def compare(self) -> None:
        _drop_dead_staging(self._connection)
        self._migration = _migration(self._connection, self._table, replace=self._days is None)
        if self._days is not None:
            self._migration += _migration(self._connection, LOAD_LOG, replace=False)

    def stage(self, tally: Tally) -> None:
        _stage(self._connection, self._table, self._staging, tally)

    def counts(self) -> dict[str, Any]:
        sql = audit_sql(self._table, self._staging, self._days, DIALECT)
        # Looking for repeated keys needs memory for each thread that it cannot spill.
        self._connection.execute("SET threads = 1")
        [row] = self._connection.execute(sql).to_arrow_table().to_pylist()
        self._connection.execute(f"SET threads = {self._warehouse.threads}")
        return row

    def tally(self) -> list[tuple[date, Any, int]]:
        return self._connection.execute(tally_sql(self._table, self._staging, DIALECT)).fetchall()

    def swap(self, log: Sequence[Entry]) -> None:
        """One transaction, of which a crash leaves nothing or everything: the days, and the log of them.

        Until it ends DuckDB remembers each deleted row in memory that it cannot spill, and ends the process
        when it cannot even roll back: so it gets the memory for them on top.
        """
        execute = self._connection.execute
        target = _quoted(self._table)
        columns = ", ".join(quote(c.name) for c in self._table.columns)
        execute("BEGIN TRANSACTION")
        execute(";".join(self._migration))
        if self._days is not None:
            those_days = f"FROM {target} WHERE {day_filter(self._days)}"
            [(replaced,)] = execute(f"SELECT count(*) {those_days}").fetchall()
            megabytes = self._warehouse.writing_megabytes + replaced * _BYTES_PER_DELETED_ROW // 1_000_000
            execute(f"SET memory_limit = '{megabytes}MB'")
            execute(f"DELETE {those_days}")
        execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {self._staging}")  # noqa: S608
        if self._days is not None:
            logged_days = day_filter(self._days, f"logged.{PARTITION_COLUMN}")
            execute(append_sql(_quoted(LOAD_LOG), _values(log), logged_days, quote))
        execute(f"DROP TABLE {self._staging}; COMMIT")
        self._staging = ""

    def log(self, log: Sequence[Entry]) -> None:
        pass  # it was part of the transaction

    def drop_staging(self) -> None:
        # What cannot be dropped now is dropped by the next writer.
        if self._staging:
            with suppress(duckdb.Error):
                self._connection.execute(f"DROP TABLE IF EXISTS {self._staging}")


def _values(log: Sequence[Entry]) -> str:
    """Entries of the load log as what a SELECT reads from."""
    columns = ", ".join(quote(c.name) for c in LOAD_LOG.columns)
    rows = ", ".join(f"({', '.join(map(_literal, entry.values()))})" for entry in log)
    return f"(SELECT * FROM (VALUES {rows}) AS entries({columns}))"  # noqa: S608


def _literal(value: object) -> str:
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE '{value}'"
    return _text(value) if isinstance(value, str) else str(value)


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
