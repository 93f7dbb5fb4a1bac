"""What assets and checks are given: PostgreSQL, the warehouse, and the IO manager between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
from dagster import ConfigurableResource
from psycopg2.extensions import connection as Connection

from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.postgres.extraction import extracted
from ecommersss_platform.settings import Settings
from ecommersss_platform.warehouse import make_warehouse
from ecommersss_platform.warehouse.io_manager import WarehouseIOManager
from streaming.database import connect

POSTGRES = "postgres"
WAREHOUSE = "warehouse"
WAREHOUSE_IO_MANAGER = "warehouse_io_manager"

BATCH_BYTES = 1 << 20
"""About how much of the server's answer is turned into one batch."""


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
        self, sql: str, params: Mapping[str, Any], schema: pa.Schema, batch_bytes: int = BATCH_BYTES
    ) -> pa.RecordBatchReader:
        """The rows of one SELECT, typed exactly as `schema`, whose columns are the SELECT's in order.

        Parameters are written `%(name)s`. All rows are of one snapshot. Memory is bounded by a few batches of
        about `batch_bytes`, whatever the number of rows. The connection is opened when the first batch is
        asked for, and closed when the reader is exhausted, fails or is dropped.

        Reading raises `psycopg2.Error`: `OperationalError` for a server that is not reached or a connection
        that is lost, also after the last whole row; `ProgrammingError` for a column whose type is not the
        schema's, `DataError` for an infinite instant or date; whatever else the server refuses, as its own
        class when it does so before the first row, else as `DatabaseError`. And `pyarrow.ArrowInvalid` for a
        number with more digits than its type. A reader that ends without an error has given all rows.
        """

        def batches() -> Iterator[pa.RecordBatch]:
            url = self.url or database_url(Settings())
            yield from extracted(url, sql, params, schema, batch_bytes)

        return pa.RecordBatchReader.from_batches(schema, batches())
