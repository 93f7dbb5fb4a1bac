"""Rows on their way to BigQuery, as a Parquet file."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

_ROW_GROUP_BYTES = 16 << 20


@dataclass
class Spool:
    """Rows as a temporary Parquet file."""

    file: IO[bytes]
    digest: str
    """SHA-256 of the file, in hexadecimal: the same for the same rows in the same order."""
    nulls: dict[str, int]
    """Missing values per column."""


@contextmanager
def spooled(rows: pa.RecordBatchReader) -> Iterator[Spool]:
    """Write the rows to a Parquet file, removed at the end. Memory holds one row group, whatever the size.

    Every column may be NULL in the file, so that the audit can name missing values.
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
    """Gather the batches into row groups of at least `_ROW_GROUP_BYTES`."""
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
