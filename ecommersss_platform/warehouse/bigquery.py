"""The warehouse on BigQuery: what is asked of it. The client that asks is in `bigquery_client.py`.

This module imports no Google library: choosing the warehouse costs a code location nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN, Column, RawTable, Type
from ecommersss_platform.partitions import Days
from ecommersss_platform.warehouse import (
    AuditError,
    OnStep,
    Published,
    QueryError,
    SchemaError,
    Step,
    TableNotFound,
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
    required_columns,
    tally_sql,
)
from ecommersss_platform.warehouse.evolution import TableColumn, changes
from ecommersss_platform.warehouse.names import STAGING, full_name, split_name, staging_name
from streaming.orders import JAKARTA

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings
    from ecommersss_platform.warehouse.bigquery_client import Session

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


DIALECT = Dialect(quote=quote, business_day=lambda instant: f"DATE({instant}, '{JAKARTA}')")


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
        from ecommersss_platform.warehouse import bigquery_client

        bigquery_client.check_credentials(self)

    def publish(
        self,
        table: RawTable,
        rows: pa.RecordBatchReader,
        days: Days | None,
        run_id: str,
        on_step: OnStep = no_report,
    ) -> Published:
        name = full_name(table)
        if days is not None and len(days) > MOST_DAYS:
            raise WarehouseError(
                f"{name}: BigQuery replaces at most {MOST_DAYS} partitions at once, and {days} has "
                f"{len(days)}: ask for it in parts"
            )
        tally = Tally(conformed(rows, table.arrow_schema, name))
        labels = {"dagster_run_id": label(run_id), "asset": label(f"{table.dataset}_{table.name}")}
        with self._session(labels) as session:
            started = time.monotonic()
            if days is not None:
                existing = session.columns(table)
                if existing:
                    changes(name, existing, wanted_columns(table))
            on_step(Step.OPENED)
            with spooled(tally.reader) as spool:
                attempt = f"{staging_name(table, run_id)}_{spool.digest[:16]}"
                load = session.stage(table, attempt, spool.file)
            staging = self._quoted(STAGING, attempt)
            try:
                on_step(Step.STAGED)
                counts = session.rows(audit_sql(table, staging, days, DIALECT), "audit")[0]
                # An array is never NULL in BigQuery: it would turn what is missing into what is empty.
                counts |= {f"null_{column}": spool.nulls[column] for column in required_arrays(table)}
                found = findings(table, days, tally.rows, counts)
                if found:
                    raise AuditError(name, days, found)
                rows_per_day: dict[date, int] = {}
                statuses: dict[date, dict[str, int]] = {}
                if days is not None:
                    counted = session.rows(tally_sql(table, staging, DIALECT), "tally")
                    rows_per_day, statuses = per_day(table, days, [tuple(row.values()) for row in counted])
                on_step(Step.AUDITED)
                staged = time.monotonic()
                target = self._quoted(*split_name(table))
                if days is None:
                    session.ensure_dataset(table.dataset)
                    sql = replace_sql(table, target, staging)
                else:
                    session.ensure_table(table)
                    sql = merge_sql(table, target, staging, days)
                session.execute(sql, attempt, self.patience)
            finally:
                # What cannot be dropped now expires.
                with suppress(WarehouseError):
                    session.drop_staging(attempt)
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
                jobs=(load, *session.jobs),
            )

    def read(
        self, table: RawTable | str, columns: Sequence[str] | None = None, days: Days | None = None
    ) -> pa.RecordBatchReader:
        name = full_name(table)
        with ExitStack() as stack:
            session = stack.enter_context(self._session({"asset": label(name)}))
            existing = session.arrow_schema(table)
            if existing is None:
                raise TableNotFound(f"{name} is not in the project {self.project} yet: materialise it first")
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

    @contextmanager
    def _session(self, labels: dict[str, str]) -> Iterator[Session]:
        from ecommersss_platform.warehouse import bigquery_client

        with bigquery_client.open_session(self, labels) as session:
            yield session

    def _quoted(self, dataset: str, table: str) -> str:
        return quote(f"{self.project}.{dataset}.{table}")


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
    """Whether queries of the table must say which days: where every row has one."""
    return any(c.name == PARTITION_COLUMN and not c.nullable for c in table.columns)


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


def replace_sql(table: RawTable, target: str, staging: str) -> str:
    """One statement that puts what is staged in the place of the whole table, columns and all."""
    columns = ", ".join(_definition(c) for c in table.columns)
    partitioned = f" PARTITION BY {PARTITION_COLUMN}" if is_partitioned(table) else ""
    clustered = f" CLUSTER BY {', '.join(map(quote, table.clustering))}" if table.clustering else ""
    labels = ", ".join(f"({_text(key)}, {_text(value)})" for key, value in TABLE_LABELS.items())
    options = f"description={_text(table.description)}, labels=[{labels}]"
    if requires_filter(table):
        options += ", require_partition_filter=TRUE"
    names = ", ".join(quote(c.name) for c in table.columns)
    return (
        f"CREATE OR REPLACE TABLE {target} ({columns}){partitioned}{clustered} OPTIONS({options}) "  # noqa: S608
        f"AS SELECT {names} FROM {staging}"
    )


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
