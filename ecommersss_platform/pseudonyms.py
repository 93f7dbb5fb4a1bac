"""Pseudonyms of e-mail addresses: keyed hashes, for joins with other systems that have the key.

They are computed here, while rows are loaded, and not in dbt. A key in SQL would be in compiled models, in
dbt's logs, and in the text of BigQuery's jobs.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator

import pyarrow as pa

from ecommersss_platform.contracts import RawTable


def keyed_hash(address: str, key: str) -> str | None:
    """Return HMAC-SHA-256 (RFC 2104) of the address as 64 hexadecimal digits; None if the text is no address.

    The message is the address in UTF-8, without white space around it, in lower case.
    """
    message = address.strip().lower()
    if "@" not in message[1:]:  # as the macro mask_email decides
        return None
    return hmac.digest(key.encode(), message.encode(), "sha256").hex()


def add_keyed_hashes(rows: pa.RecordBatchReader, table: RawTable, key: str) -> pa.RecordBatchReader:
    """Return rows of `table.source_schema` with the columns of `table` that hold keyed hashes."""

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            arrays = [
                batch.column(c.name) if c.keyed_hash_of is None else hashes(batch.column(c.keyed_hash_of))
                for c in table.columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=table.arrow_schema)

    def hashes(addresses: pa.Array) -> pa.Array:
        texts = addresses.to_pylist()
        return pa.array([None if text is None else keyed_hash(text, key) for text in texts], pa.string())

    return pa.RecordBatchReader.from_batches(table.arrow_schema, batches())
