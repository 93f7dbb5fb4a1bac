"""What assets and checks are given: PostgreSQL, the warehouse, and the IO manager between them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from io import BufferedReader, BufferedWriter, FileIO
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.csv
from dagster import ConfigurableResource
from psycopg2.extensions import STRINGARRAY
from psycopg2.extensions import connection as Connection

from ecommersss_platform.local.database import database_url
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform.warehouse.io_manager import WarehouseIOManager
from streaming.database import connect

POSTGRES = "postgres"
WAREHOUSE = "warehouse"
WAREHOUSE_IO_MANAGER = "warehouse_io_manager"

BLOCK_BYTES = 1 << 20
"""How much of the server's answer is turned into one batch; a single row may not be larger."""


def platform_resources(settings: Settings) -> dict[str, Any]:
    """The resources of the raw assets and their checks, by key. Opens nothing."""
    warehouse = make_warehouse(settings)
    return {
        POSTGRES: PostgresResource(),
        WAREHOUSE: warehouse,
        WAREHOUSE_IO_MANAGER: WarehouseIOManager(warehouse),
    }


class PostgresResource(ConfigurableResource):
    """The operational database, read as streams of Arrow batches.

    `url` is for tests: it would show in the Dagster UI. Left out, the URL comes from the settings, when it is
    first needed.
    """

    url: str | None = None

    @contextmanager
    def connect(self, application: str = "ecommersss") -> Iterator[Connection]:
        """A connection for writing, closed at the end; each `with` over it is a transaction.

        Raises `psycopg2.OperationalError` when the server is not reached.
        """
        with closing(connect(self.url or database_url(Settings()), application)) as connection:
            yield connection

    def stream(
        self, sql: str, params: Mapping[str, Any], schema: pa.Schema, block_bytes: int = BLOCK_BYTES
    ) -> pa.RecordBatchReader:
        """The rows of one SELECT, typed exactly as `schema`, whose columns are the SELECT's in order.

        Parameters are written `%(name)s`. All rows are of one snapshot. Memory is bounded by a few blocks,
        whatever the number of rows. The connection is opened when the first batch is asked for, and closed
        when the reader is exhausted, fails or is dropped.

        Reading raises `psycopg2.Error` for what the server refuses or a connection that is lost, also after
        the last whole row: a reader that ends without an error has given all rows.
        """
        return pa.RecordBatchReader.from_batches(schema, self._batches(sql, params, schema, block_bytes))

    def _batches(
        self, sql: str, params: Mapping[str, Any], schema: pa.Schema, block_bytes: int
    ) -> Iterator[pa.RecordBatch]:
        connection = connect(self.url or database_url(Settings()), "ecommersss extraction")
        try:
            connection.set_session(readonly=True)
            connection.set_client_encoding("UTF8")
            with connection.cursor() as cursor:
                # COPY takes no parameters, so the client library writes them in as literals.
                copy = f"COPY ({cursor.mogrify(sql, params).decode()}) TO STDOUT (FORMAT csv)"
            yield from _copied(connection, copy, schema, block_bytes)
        finally:
            connection.close()


def _copied(
    connection: Connection, copy: str, schema: pa.Schema, block_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a COPY in CSV: a thread feeds a pipe, Arrow's CSV reader parses the other end.

    As CSV, PostgreSQL writes NULL as nothing and the empty text as "".
    """
    read_end, write_end = os.pipe()
    failures: list[BaseException] = []

    def pump() -> None:
        try:
            with BufferedWriter(FileIO(write_end, "wb"), 1 << 18) as sink, connection.cursor() as cursor:
                cursor.copy_expert(copy, sink)
        except BaseException as error:
            failures.append(_outage(error))

    with BufferedReader(FileIO(read_end), 1 << 18) as source:
        thread = threading.Thread(target=pump, name="copy", daemon=True)
        thread.start()
        try:
            if source.peek(1):  # Arrow takes a file without any row for an error
                for batch in _parsed(source, schema, block_bytes):
                    yield _typed(batch, schema)
        except BaseException:
            # Nobody reads on, so the server need not write on. The pump waits until the pipe has room.
            with suppress(psycopg2.Error):
                connection.cancel()
            while source.read(1 << 20):
                pass
            thread.join()
            raise
        thread.join()
    if failures:
        raise failures[0]


def _outage(error: BaseException) -> BaseException:
    """The error, as the `OperationalError` that it is when the connection was lost.

    psycopg2 has only its base class, without a code, for a COPY that ends without a word from the server.
    """
    if type(error) is not psycopg2.DatabaseError or error.pgcode is not None:
        return error
    lost = psycopg2.OperationalError(f"the connection was lost while rows were read ({error})")
    lost.__cause__ = error
    return lost


def _parsed(source: BufferedReader[Any], schema: pa.Schema, block_bytes: int) -> pa.csv.CSVStreamingReader:
    # Lists come as PostgreSQL's array literals, few of them different, so each is parsed once per batch.
    types = {
        field.name: pa.dictionary(pa.int32(), pa.string()) if pa.types.is_list(field.type) else field.type
        for field in schema
    }
    return pa.csv.open_csv(
        source,
        # One thread parses as fast as the server sends; more only make it slower.
        pa.csv.ReadOptions(column_names=schema.names, block_size=block_bytes, use_threads=False),
        pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        pa.csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )


def _typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        _lists(column, field.type) if pa.types.is_list(field.type) else column
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _lists(literals: pa.DictionaryArray, type_: pa.ListType) -> pa.Array:
    values = [STRINGARRAY(literal, None) for literal in literals.dictionary.to_pylist()]
    return pa.array(values, type_).take(literals.indices)
