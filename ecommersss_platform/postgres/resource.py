"""The Dagster resource for the operational database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
from dagster import ConfigurableResource
from psycopg2.extensions import connection as Connection

from ecommersss_platform.instance.databases import database_url
from ecommersss_platform.postgres.extraction import read_batches
from ecommersss_platform.settings import Settings
from streaming.database import connect
from streaming.roles import Role

BATCH_BYTES = 1 << 20
"""The approximate size of a batch, in bytes of the server's answer."""


class PostgresResource(ConfigurableResource):
    """The operational database, read as streams of Arrow batches.

    `url` is for tests, because it would show in the Dagster UI. Without it the URL comes from the settings
    when it is first needed.
    """

    url: str | None = None

    @contextmanager
    def connect(self, application: str, role: Role) -> Iterator[Connection]:
        """Open a connection of a role, closed at the end. Each `with` over it is a transaction.

        Raises `psycopg2.OperationalError` if the server cannot be reached.
        """
        with closing(connect(self._url(role), application)) as connection:
            yield connection

    def stream(
        self, sql: str, params: Mapping[str, Any], schema: pa.Schema, batch_bytes: int = BATCH_BYTES
    ) -> pa.RecordBatchReader:
        """Return the rows of one SELECT, typed exactly as `schema`, whose columns are the SELECT's in order.

        Parameters are written `%(name)s`. All rows are of one snapshot. Memory is bounded by a few batches of
        about `batch_bytes`, whatever the number of rows. The connection opens when the first batch is read,
        and closes when the reader is exhausted, fails or is dropped.

        A reader that ends without an error has returned all rows. Reading raises:

        - `psycopg2.OperationalError` if the server cannot be reached or the connection is lost, even after
          the last whole row;
        - `psycopg2.ProgrammingError` for a column whose type is not the schema's;
        - `psycopg2.DataError` for an instant or date that is infinite or outside the years 1 to 9999;
        - `pyarrow.ArrowInvalid` for a number with more digits than its type;
        - for anything else that the server refuses, its own class.
        """

        def batches() -> Iterator[pa.RecordBatch]:
            yield from read_batches(self._url(Role.READER), sql, params, schema, batch_bytes)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def _url(self, role: Role) -> str:
        return self.url or database_url(Settings(), role)
