"""The warehouse on BigQuery: what is asked of it. The client that asks is in `bigquery_client.py`.

This module imports no Google library: choosing the warehouse costs a code location nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from ecommersss_platform.contracts import LOAD_LOG, PARTITION_COLUMN, Column, RawTable, Type
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
from ecommersss_platform.warehouse.audit import (
    Dialect,
    audit_sql,
    day_filter,
    required_columns,
    tally_sql,
)
from ecommersss_platform.warehouse.load_log import Entry, append_sql
from ecommersss_platform.warehouse.names import STAGING, full_name, split_name, staging_name
from ecommersss_platform.warehouse.publication import Publication, write_audit_publish
from ecommersss_platform.warehouse.schema_changes import (
    Migration,
    TableColumn,
    changes,
    check_losses,
    losses_sql,
    migration,
    selected,
)
from streaming.business_days import JAKARTA

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from ecommersss_platform.warehouse.bigquery.session import Session

TYPES = {
    Type.INT64: "INT64",
    Type.STRING: "STRING",
    Type.STRINGS: "ARRAY<STRING>",
    Type.BOOL: "BOOL",
    Type.MONEY: "NUMERIC",
    Type.TIMESTAMP: "TIMESTAMP",
    Type.DATE: "DATE",
    Type.FLOAT64: "FLOAT64",
}

MOST_DAYS = 4000
"""Partitions that BigQuery lets one job modify."""

ANY_DAY = f"{PARTITION_COLUMN} >= DATE '0001-01-01'"
"""True for every day there is: a table that requires a partition filter is satisfied with it."""

TABLE_LABELS = {"managed_by": "ecommersss"}

_ROW_GROUP_BYTES = 16 << 20
_LABEL_LENGTH = 63


def quote(identifier: str) -> str:
    return f"`{identifier}`"


def try_cast(value: str, type_: str) -> str:
    cast = f"SAFE_CAST({value} AS {type_})"
    # NUMERIC has nine places; the only one of the contracts has two.
    return f"ROUND({cast}, 2)" if type_ == TYPES[Type.MONEY] else cast


DIALECT = Dialect(
    quote=quote, business_day=lambda instant: f"DATE({instant}, '{JAKARTA}')", try_cast=try_cast
)


@dataclass(frozen=True)
class BigQueryWarehouse:
    """The datasets of a Google Cloud project.

    Credentials are those of the service account in `key_file` if it is given, else the application default
    ones; `impersonate` names a service account to act as with them. Jobs run in, and are paid by,
    `billing_project` (None: the project itself). A query that would scan more than `maximum_bytes_billed` is
    refused by BigQuery before it costs anything. `endpoint` is the address of an emulator: no credentials are
    read or sent then. `patience` is how many seconds a publication waits for others on the same table.
    """

    project: str
    location: str
    billing_project: str | None = None
    key_file: Path | None = None
    impersonate: str | None = None
    maximum_bytes_billed: int | None = None
    endpoint: str | None = None
    patience: float = 300.0

    @classmethod
    def of(cls, settings: Settings) -> BigQueryWarehouse:
        assert settings.bigquery_project is not None  # the settings see to it
        return cls(
            project=settings.bigquery_project,
            location=settings.bigquery_location,
            billing_project=settings.bigquery_billing_project,
            key_file=settings.bigquery_key_file and settings.bigquery_key_file.expanduser(),
            impersonate=settings.bigquery_impersonate,
            maximum_bytes_billed=settings.bigquery_maximum_bytes_billed,
            endpoint=settings.bigquery_endpoint,
        )

    @property
    def pool(self) -> str | None:
        return None

    def check_access(self) -> None:
        from ecommersss_platform.warehouse.bigquery import session as bigquery_client

        bigquery_client.check_credentials(self)

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
        if days is not None and len(days) > MOST_DAYS:
            raise WarehouseError(
                f"{full_name(table)}: BigQuery replaces at most {MOST_DAYS} partitions at once, and {days} "
                f"has {len(days)}: ask for it in parts"
            )
        labels = {"dagster_run_id": label(run_id), "asset": label(f"{table.dataset}_{table.name}")}
        with self._session(labels) as session:
            yield _Publication(self, session, table, days, run_id)

    def migrate(
        self, table: RawTable, renames: Mapping[str, str], drops: Collection[str], *, dry_run: bool = False
    ) -> tuple[str, ...]:
        name = full_name(table)
        with self._session({"asset": label(name)}) as session:
            existing = session.columns(table)
            if not existing:
                raise self._not_found(name)
            todo = migration(name, existing, wanted_columns(table), renames, drops)
            if not todo.told:
                return ()
            where = f" WHERE {ANY_DAY}" if session.requires_filter(table) else ""
            source = f"{self._quoted(*split_name(table))}{where}"
            if sql := losses_sql(todo, source, DIALECT):
                check_losses(todo, session.rows(sql, "losses")[0])
            if not dry_run:
                self._replace(session, table, todo, source)
            return todo.told

    def _replace(self, session: Session, table: RawTable, todo: Migration, source: str) -> None:
        """Write, audit, publish of a table's own rows: each of several ALTERs could be the last that ran."""
        attempt = staging_name(table, f"migration_{uuid4().hex}")
        staging = self._quoted(STAGING, attempt)
        columns = ", ".join(quote(c.name) for c in table.columns)
        session.create_staging(table, attempt)
        try:
            select = selected(todo, DIALECT)
            insert = f"INSERT INTO {staging} ({columns}) SELECT {select} FROM {source}"  # noqa: S608
            session.execute(insert, "migrate", attempt, self.patience)
            counted = f"SELECT count(*) AS n FROM {staging} UNION ALL SELECT count(*) FROM {source}"  # noqa: S608
            if len({row["n"] for row in session.rows(counted, "audit")}) != 1:
                raise WarehouseBusy(f"{todo.table} gained rows meanwhile; run again when no run loads it")
            select = f"SELECT {columns} FROM {staging}"  # noqa: S608
            replacement = replace_sql(table, self._quoted(*split_name(table)), select)
            session.execute(replacement, "publish", attempt, self.patience)
        finally:
            with suppress(WarehouseError):
                session.drop_staging(attempt)

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        name = full_name(table)
        with ExitStack() as stack:
            session = stack.enter_context(self._session({"asset": label(name)}))
            existing = session.arrow_schema(table)
            if existing is None:
                raise self._not_found(name)
            schema = asked_schema(table, columns, existing.names)
            if schema is None:
                unknown = [c for c in columns or () if c not in existing.names]
                if unknown:
                    raise SchemaError(
                        f"{name} has no column {', '.join(unknown)}; it has {', '.join(existing.names)}"
                    )
                schema = pa.schema([existing.field(c) for c in columns or existing.names])
            where = f" WHERE {day_filter(days)}" if days else ""
            if not days and session.requires_filter(table):
                where = f" WHERE {ANY_DAY}"
            selected = ", ".join(_selected(f, existing.names) for f in schema)
            batches = session.batches(
                f"SELECT {selected} FROM {self._quoted(*split_name(table))}{where}",  # noqa: S608
                "read",
            )
            held = stack.pop_all()

        def conformed_batches() -> Iterator[pa.RecordBatch]:
            with held:
                for batch in batches:
                    yield batch.cast(schema)

        return pa.RecordBatchReader.from_batches(schema, conformed_batches())

    def query(self, sql: str) -> pa.Table:
        with self._session({}) as session:
            kind = session.kind(sql)
            if kind != "SELECT":
                raise QueryError(f"one statement that only reads; this is {kind or 'none'}: {sql.strip()!r}")
            result = session.table(sql, "query")
            return result.cast(pa.schema([plain(f) for f in result.schema]))

    def newest_day(self, table: RawTable | str) -> date | None:
        target = self._quoted(*split_name(table))
        with self._session({"asset": label(full_name(table))}) as session:
            sql = f"SELECT max({PARTITION_COLUMN}) AS newest FROM {target} WHERE {ANY_DAY}"  # noqa: S608
            with suppress(TableNotFound):
                newest: date | None = session.rows(sql, "newest day")[0]["newest"]
                return newest
            return None

    def _not_found(self, name: str) -> TableNotFound:
        return TableNotFound(f"{name} is not in the project {self.project} yet: materialise it first")

    @contextmanager
    def _session(self, labels: dict[str, str]) -> Iterator[Session]:
        from ecommersss_platform.warehouse.bigquery import session as bigquery_client

        with bigquery_client.open_session(self, labels) as session:
            yield session

    def _quoted(self, dataset: str, table: str) -> str:
        return quote(f"{self.project}.{dataset}.{table}")


class _Publication:
    """A publication in a session of the client."""

    def __init__(
        self,
        warehouse: BigQueryWarehouse,
        session: Session,
        table: RawTable,
        days: Days | None,
        run_id: str,
    ) -> None:
        self._warehouse, self._session = warehouse, session
        self._table, self._days, self._run_id = table, days, run_id
        self._attempt = ""
        self._nulls: dict[str, int] = {}
        self.jobs: Sequence[Job] = session.jobs

    def compare(self) -> None:
        if self._days is not None:
            existing = self._session.columns(self._table)
            if existing:
                changes(full_name(self._table), existing, wanted_columns(self._table))

    def stage(self, tally: Tally) -> None:
        with spooled(tally.reader) as spool:
            # The same run with the same rows is the same attempt, whichever process makes it.
            self._attempt = f"{staging_name(self._table, self._run_id)}_{spool.digest[:16]}"
            self._nulls = spool.nulls
            self._session.stage(self._table, self._attempt, spool.file)

    @property
    def _staging(self) -> str:
        return self._warehouse._quoted(STAGING, self._attempt)

    def counts(self) -> dict[str, Any]:
        sql = audit_sql(self._table, self._staging, self._days, DIALECT)
        [counts] = self._session.rows(sql, "audit")
        # An array is never NULL in BigQuery: it would turn what is missing into what is empty.
        return counts | {f"null_{column}": self._nulls[column] for column in required_arrays(self._table)}

    def tally(self) -> list[tuple[Any, ...]]:
        sql = tally_sql(self._table, self._staging, DIALECT)
        return [tuple(row.values()) for row in self._session.rows(sql, "tally")]

    def swap(self, log: Sequence[Entry]) -> None:
        target = self._warehouse._quoted(*split_name(self._table))
        if self._days is None:
            self._session.ensure_dataset(self._table.dataset)
            columns = ", ".join(quote(c.name) for c in self._table.columns)
            sql = replace_sql(self._table, target, f"SELECT {columns} FROM {self._staging}")  # noqa: S608
        else:
            # The log too, so that nothing is left to go wrong with it once the days are replaced.
            self._session.ensure_table(LOAD_LOG)
            self._session.ensure_table(self._table)
            sql = merge_sql(self._table, target, self._staging, self._days)
        self._session.execute(sql, "publish", self._attempt, self._warehouse.patience)

    def log(self, log: Sequence[Entry]) -> None:
        """A statement of its own, after the days were replaced.

        A transaction over both tables would make runs on different days fail each other. So a crash in
        between leaves a load that the log does not have, never an entry of a load that was not. The retry of
        the run replaces the days by the same rows and logs that, once, however often it is repeated. Without
        a retry the checksum of the day's rows is not that of its newest entry.
        """
        if self._days is not None:
            target = self._warehouse._quoted(*split_name(LOAD_LOG))
            sql = log_sql(target, log, self._days)
            self._session.execute(sql, "log", self._attempt, self._warehouse.patience)

    def drop_staging(self) -> None:
        # What cannot be dropped now expires.
        if self._attempt:
            self._session.drop_staging(self._attempt)


# Decisions


def label(value: str) -> str:
    """A label value as BigQuery takes it: at most 63 lower-case letters, digits, dashes, underscores."""
    return re.sub(r"[^a-z0-9_-]", "_", value.lower())[:_LABEL_LENGTH]


def wanted_columns(table: RawTable) -> list[TableColumn]:
    return [TableColumn(c.name, TYPES[c.type], c.nullable) for c in table.columns]


def required_arrays(table: RawTable) -> list[str]:
    arrays = {c.name for c in table.columns if c.type is Type.STRINGS}
    return [name for name in required_columns(table) if name in arrays]


def requires_filter(table: RawTable) -> bool:
    """Whether queries must say which days: where every row has one, unless the contract spares them."""
    return not table.whole and any(c.name == PARTITION_COLUMN and not c.nullable for c in table.columns)


def is_partitioned(table: RawTable) -> bool:
    return any(c.name == PARTITION_COLUMN for c in table.columns)


def merge_sql(table: RawTable, target: str, staging: str, days: Days) -> str:
    """One statement that replaces exactly these days with what is staged.

    Nothing matches, so every staged row is inserted, and rows of the target are deleted by the day alone.
    Bounds are constants, so that only these partitions are read and written; on both sides, so that no other
    day could gain a row, whatever was staged.
    """
    columns = ", ".join(quote(c.name) for c in table.columns)
    return (
        f"MERGE {target} AS target "  # noqa: S608
        f"USING (SELECT {columns} FROM {staging} WHERE {day_filter(days)}) AS staged ON FALSE "
        f"WHEN NOT MATCHED BY SOURCE AND {day_filter(days, f'target.{PARTITION_COLUMN}')} THEN DELETE "
        f"WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({columns})"
    )


def replace_sql(table: RawTable, target: str, select: str) -> str:
    """One statement that puts what is selected in the place of the whole table, columns and all."""
    columns = ", ".join(_definition(c) for c in table.columns)
    partitioned = f" PARTITION BY {PARTITION_COLUMN}" if is_partitioned(table) else ""
    clustered = f" CLUSTER BY {', '.join(map(quote, table.clustering))}" if table.clustering else ""
    labels = ", ".join(f"({_text(key)}, {_text(value)})" for key, value in TABLE_LABELS.items())
    options = f"description={_text(table.description)}, labels=[{labels}]"
    if requires_filter(table):
        options += ", require_partition_filter=TRUE"
    return (
        f"CREATE OR REPLACE TABLE {target} ({columns}){partitioned}{clustered} OPTIONS({options}) AS {select}"
    )


def log_sql(target: str, log: Sequence[Entry], days: Days) -> str:
    """The statement that appends these entries, of these days, to the load log."""
    rows = ", ".join(
        f"STRUCT({', '.join(f'{_literal(value)} AS {quote(name)}' for name, value in row.items())})"
        for row in log
    )
    return append_sql(target, f"UNNEST([{rows}])", day_filter(days, f"logged.{PARTITION_COLUMN}"), quote)


def _literal(value: object) -> str:
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE '{value}'"
    return _text(value) if isinstance(value, str) else str(value)


def _definition(column: Column) -> str:
    required = "" if column.nullable or column.type is Type.STRINGS else " NOT NULL"
    described = f"OPTIONS(description={_text(column.description)})"
    return f"{quote(column.name)} {TYPES[column.type]}{required} {described}"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _selected(field: pa.Field, existing: Sequence[str]) -> str:
    """A column of a SELECT. One that the contract has just gained is NULL until it is first published."""
    if field.name in existing:
        return quote(field.name)
    return f"CAST(NULL AS {TYPES[Type(field.type)]}) AS {quote(field.name)}"


# Rows on their way


@dataclass
class Spool:
    """Rows as a Parquet file, which goes away with the `with` that made it."""

    file: IO[bytes]
    digest: str
    """SHA-256 of the file, in hexadecimal: the same for the same rows in the same order."""
    nulls: dict[str, int]
    """Missing values per column."""


@contextmanager
def spooled(rows: pa.RecordBatchReader) -> Iterator[Spool]:
    """Write the rows to a temporary Parquet file. Memory holds a row group, whatever the number of rows.

    Every column may be NULL in the file, so that the audit can name what is missing.
    """
    import pyarrow.parquet as pq

    schema = pa.schema([f.with_nullable(True) for f in rows.schema])
    nulls = dict.fromkeys(schema.names, 0)
    with tempfile.TemporaryFile(prefix="ecommersss-", suffix=".parquet") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _row_groups(rows):
                table = pa.Table.from_batches(
                    [pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in group], schema
                )
                for name in schema.names:
                    nulls[name] += table.column(name).null_count
                writer.write_table(table, row_group_size=table.num_rows or None)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        yield Spool(file, digest, nulls)


def _row_groups(rows: pa.RecordBatchReader) -> Iterator[list[pa.RecordBatch]]:
    """The batches, gathered until there is enough of them for a row group."""
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in rows:
        group.append(batch)
        size += batch.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
