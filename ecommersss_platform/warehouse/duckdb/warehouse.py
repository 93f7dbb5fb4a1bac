"""The embedded warehouse: one DuckDB file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa

from ecommersss_platform.contracts import LOAD_LOG, PARTITION_COLUMN, RawTable
from ecommersss_platform.days import Days
from ecommersss_platform.warehouse.arrow import CountingReader, asked_schema, normalised
from ecommersss_platform.warehouse.audit import audit_sql, day_filter, tally_sql
from ecommersss_platform.warehouse.dialect import Dialect
from ecommersss_platform.warehouse.duckdb.catalog import is_attached
from ecommersss_platform.warehouse.duckdb.ddl import (
    DIALECT,
    contract_statements,
    create_staging,
    create_statements,
    drop_dead_staging,
    existing_columns,
    qualified,
)
from ecommersss_platform.warehouse.duckdb.engine import DuckDbFile
from ecommersss_platform.warehouse.duckdb.spool import spooled
from ecommersss_platform.warehouse.errors import QueryError, SchemaError, TableNotFound, WarehouseError
from ecommersss_platform.warehouse.load_log import Entry, append_sql
from ecommersss_platform.warehouse.names import STAGING, full_name, staging_name
from ecommersss_platform.warehouse.protocol import Job
from ecommersss_platform.warehouse.publication import Publication, PublishingWarehouse
from ecommersss_platform.warehouse.schema_changes import (
    check_losses,
    losses_sql,
    migrated_columns,
    plan_migration,
)
from streaming.errors import first_line

POOL = "duckdb"

_INTERRUPTED = "INTERRUPT Error"

_ROWS_PER_BATCH = 10_000
_BYTES_PER_DELETED_ROW = 10
"""8 of DuckDB's own, and the overhead of what holds them."""


@dataclass(frozen=True)
class DuckDbWarehouse(DuckDbFile, PublishingWarehouse):
    """A warehouse in one file, created when something is first published.

    Beyond the memory of `DuckDbFile`, only the rows that a publication replaces take more: see `swap`.
    """

    @property
    def pool(self) -> str | None:
        return POOL

    @property
    def dialect(self) -> Dialect:
        return DIALECT

    @property
    def dbt_target(self) -> str:
        return "duckdb_attached" if is_attached(self.path) else "duckdb"

    def check_access(self) -> Mapping[str, str]:
        return {}  # the file has no credentials; opening it shows whether it may be written

    @contextmanager
    def _publication(self, table: RawTable, days: Days | None, run_id: str) -> Iterator[Publication]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.writing() as connection:
            staging = f"{STAGING}.{DIALECT.quote(staging_name(table, run_id))}"
            yield _Publication(self, connection, table, days, staging)

    def migrate(
        self, table: RawTable, renames: Mapping[str, str], drops: Collection[str], *, dry_run: bool = False
    ) -> tuple[str, ...]:
        name, target = full_name(table), qualified(table)
        self.check_exists()
        with self.reading() if dry_run else self.writing() as connection:
            existing = existing_columns(connection, table)
            if not existing:
                raise self._not_found(name)
            plan = plan_migration(name, existing, DIALECT.columns(table), renames, drops)
            if not plan.descriptions:
                return ()
            if sql := losses_sql(plan, target, DIALECT):
                check_losses(plan, connection.execute(sql).to_arrow_table().to_pylist()[0])
            if not dry_run:
                old = f"{table.name}__old"
                source = qualified(f"{table.dataset}.{old}")
                connection.execute(
                    f"BEGIN TRANSACTION; ALTER TABLE {target} RENAME TO {DIALECT.quote(old)}; "  # noqa: S608
                    f"{';'.join(create_statements(table))}; "
                    f"INSERT INTO {target} SELECT {migrated_columns(plan, DIALECT)} FROM {source}; "
                    f"DROP TABLE {source}; COMMIT"
                )
            return plan.descriptions

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        with self.reading() as connection:
            if not existing_columns(connection, table):
                raise self._not_found(full_name(table))
            target = qualified(table)
            try:
                found = connection.execute(f"SELECT * FROM {target} LIMIT 0").to_arrow_reader()  # noqa: S608
            except duckdb.BinderException as error:  # a view that no longer fits what it reads
                raise SchemaError(f"{full_name(table)}: {first_line(error)}") from error
            schema = asked_schema(table, columns, normalised(found.schema))
            where = f" WHERE {day_filter(days)}" if days else ""
            select = DIALECT.select_list(schema, found.schema.names)
            rows = connection.execute(f"SELECT {select} FROM {target}{where}")  # noqa: S608
            return spooled(rows.to_arrow_reader(), schema)

    def stream(self, sql: str) -> pa.RecordBatchReader:
        try:
            return self._stream(sql)
        except QueryError as error:
            if not str(error).startswith(_INTERRUPTED):
                raise
            # Another thread failed, and this one reported that it was stopped. One thread reports the cause.
            return replace(self, threads=1)._stream(sql)

    def _stream(self, sql: str) -> pa.RecordBatchReader:
        with self.reading() as connection:
            # A query sees the warehouse, not the files or variables of whoever asks.
            connection.execute("SET enable_external_access = false")
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET lock_configuration = true")
            try:
                statements = connection.extract_statements(sql)
                if len(statements) != 1:
                    raise QueryError(f"one statement at a time; this is {len(statements)}: {sql.strip()!r}")
                rows = connection.execute(statements[0]).to_arrow_reader(_ROWS_PER_BATCH)
                return spooled(rows, rows.schema)
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                # An error of DuckDB in the middle of the rows comes as an OSError without a number.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise QueryError(str(error)) from error

    def newest_day(self, table: RawTable | str) -> date | None:
        sql = f"SELECT max({PARTITION_COLUMN}) FROM {qualified(table)}"  # noqa: S608
        with suppress(TableNotFound), self.reading() as connection:
            if existing_columns(connection, table):
                newest: date | None = connection.execute(sql).fetchall()[0][0]
                return newest
        return None

    def _not_found(self, name: str) -> TableNotFound:
        return TableNotFound(f"{name} is not in {self.path} yet: materialise it first")


@dataclass
class _Publication:
    """A publication on an open connection that may write."""

    _warehouse: DuckDbWarehouse
    _connection: duckdb.DuckDBPyConnection
    _table: RawTable
    _days: Days | None
    _staging: str
    _contract_statements: Sequence[str] = ()
    _table_rows: int = 0
    jobs: Sequence[Job] = ()

    def compare(self) -> None:
        drop_dead_staging(self._connection)
        statements = contract_statements(self._connection, self._table, replace=self._days is None)
        if self._days is not None:
            statements += contract_statements(self._connection, LOAD_LOG, replace=False)
        self._contract_statements = statements

    def stage(self, rows: CountingReader) -> None:
        create_staging(self._connection, self._table, self._staging)
        # As a bare stream: given a reader, DuckDB's client loads pyarrow.dataset.
        self._connection.register("extracted", rows.reader.__arrow_c_stream__())
        try:
            self._connection.execute(f"INSERT INTO {self._staging} SELECT * FROM extracted")  # noqa: S608
        except duckdb.Error as error:
            raise rows.error or WarehouseError(f"staging failed: {first_line(error)}") from error
        finally:
            self._connection.unregister("extracted")

    def counts(self) -> dict[str, Any]:
        sql = audit_sql(self._table, self._staging, self._days, DIALECT)
        # Finding repeated keys needs memory per thread that DuckDB cannot spill.
        self._connection.execute("SET threads = 1")
        [row] = self._connection.execute(sql).to_arrow_table().to_pylist()
        self._connection.execute(f"SET threads = {self._warehouse.threads}")
        return row

    def tally(self) -> list[tuple[date, Any, int]]:
        return self._connection.execute(tally_sql(self._table, self._staging, DIALECT)).fetchall()

    def swap(self, log: Sequence[Entry]) -> None:
        """Replace the days and log them in one transaction, of which a crash leaves all or nothing.

        Until the transaction ends, DuckDB remembers each deleted row in memory that it cannot spill, and it
        ends the process if it cannot even roll back. So the memory limit grows by what the rows need.
        """
        execute = self._connection.execute
        target = qualified(self._table)
        columns = DIALECT.column_list(self._table)
        execute("BEGIN TRANSACTION")
        execute(";".join(self._contract_statements))
        if self._days is not None:
            those_days = f"FROM {target} WHERE {day_filter(self._days)}"
            [(replaced,)] = execute(f"SELECT count(*) {those_days}").fetchall()
            megabytes = self._warehouse.writing_megabytes + replaced * _BYTES_PER_DELETED_ROW // 1_000_000
            execute(f"SET memory_limit = '{megabytes}MB'")
            execute(f"DELETE {those_days}")
        execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {self._staging}")  # noqa: S608
        if self._days is not None:
            execute(append_sql(qualified(LOAD_LOG), log, self._days, DIALECT))
        [(self._table_rows,)] = execute(f"SELECT count(*) FROM {target}").fetchall()  # noqa: S608
        execute(f"DROP TABLE {self._staging}; COMMIT")
        self._staging = ""

    def table_rows(self) -> int:
        return self._table_rows

    def drop_staging(self) -> None:
        # A table that cannot be dropped now is dropped by the next writer.
        if self._staging:
            with suppress(duckdb.Error):
                self._connection.execute(f"DROP TABLE IF EXISTS {self._staging}")
