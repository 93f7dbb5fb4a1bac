"""Rows read out of the DuckDB file, kept aside so that the file can be closed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pyarrow as pa

_IN_MEMORY_BYTES = 64 << 20


def spooled(rows: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """Read all rows now, and hand them out later with this schema.

    They are kept in memory, or in a temporary file if there are more than `_IN_MEMORY_BYTES` of them.
    """
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
    with pa.ipc.new_stream(spool, schema) as writer:
        for batch in rows:
            writer.write_batch(batch if batch.schema == schema else batch.cast(schema))
    spool.seek(0)

    def batches() -> Iterator[pa.RecordBatch]:
        with spool:
            yield from pa.ipc.open_stream(spool)

    return pa.RecordBatchReader.from_batches(schema, batches())
