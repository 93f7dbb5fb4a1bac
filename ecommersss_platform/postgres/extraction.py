"""Read SELECTs from PostgreSQL as typed Arrow batches: COPY as CSV, which Arrow's own reader parses.

One thread receives rows while the reader's thread parses those before. On one machine, a million orders took
1.0 s of processor time this way, and 1.6 s with Arrow's PostgreSQL driver: its packages, from ADBC 1.9 to at
least 1.13, are compiled without optimisation. The driver of ADBC 1.8 took 0.3 s, but it aborts the process
when a connection is cut.

As CSV, PostgreSQL writes NULL as nothing, and the empty text as "".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from io import BufferedWriter, RawIOBase
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.csv as pc
from psycopg2.extensions import STRINGARRAY
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from pyarrow.lib import StringBuilder

from ecommersss_platform.signals import next_item
from streaming.database import conninfo

APPLICATION = "ecommersss extraction"
"""The application name of the sessions on the server."""

_BLOCKS_AHEAD = 2
"""How many received blocks may wait for the parser."""

_INTEGERS = frozenset({20, 21, 23})
_OIDS = {
    pa.types.is_integer: _INTEGERS,
    pa.types.is_decimal: _INTEGERS | {1700},
    pa.types.is_floating: frozenset({700, 701}),
    pa.types.is_string: frozenset({25, 1042, 1043}),
    pa.types.is_boolean: frozenset({16}),
    pa.types.is_timestamp: frozenset({1184}),
    pa.types.is_date32: frozenset({1082}),
    pa.types.is_list: frozenset({1009, 1015}),
}
"""Per kind of Arrow type, PostgreSQL's numbers (pg_type.oid) of the types that become it without a guess."""

_PARSE = pc.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)


def read_batches(
    url: str, sql: str, params: Mapping[str, Any], schema: pa.Schema, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Read the rows of one SELECT, as `PostgresResource.stream` documents."""
    with closing(psycopg2.connect(conninfo(url, APPLICATION, read_only=True))) as connection:
        with connection.cursor() as cursor:
            # COPY takes no parameters, so psycopg2 writes them in as literals.
            query = cursor.mogrify(sql, params).decode()
            _check_schema(cursor, query, schema)
        options = _convert_options(schema)
        for block in _copy(connection, f"COPY ({query}) TO STDOUT (FORMAT csv)", batch_bytes):
            yield _parse(block, schema, options)


def _copy(connection: Connection, copy: str, block_bytes: int) -> Iterator[bytes]:
    """Return the answer to a COPY in blocks of whole rows, which a thread receives."""
    blocks: Queue[bytes | BaseException | None] = Queue(_BLOCKS_AHEAD)

    def receive() -> None:
        try:
            with BufferedWriter(_Blocks(blocks), block_bytes) as sink, connection.cursor() as cursor:
                cursor.copy_expert(copy, sink)
        except BaseException as error:
            blocks.put(_interruption(error))
        finally:
            blocks.put(None)

    Thread(target=receive, name="copy", daemon=True).start()
    block: bytes | BaseException | None = b""
    try:
        while (block := next_item(blocks)) is not None:
            if isinstance(block, BaseException):
                raise block
            yield block
    except BaseException:
        # Nobody reads the rest, so the server need not send it.
        with suppress(psycopg2.Error):
            connection.cancel()
        raise
    finally:
        while block is not None:  # the thread may wait for room, and must be done with the connection
            block = next_item(blocks)


class _Blocks(RawIOBase):
    """A file that puts what is written to it into a queue.

    psycopg2 writes row by row. The buffer before this file passes on what it has when the next row does not
    fit, so that a block holds whole rows.
    """

    def __init__(self, blocks: Queue[Any]) -> None:
        self._blocks = blocks

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._blocks.put(bytes(data))
        return memoryview(data).nbytes


def _interruption(error: BaseException) -> BaseException:
    """Return the error, as an `OperationalError` if the connection was lost.

    For a COPY that ends without a word from the server, psycopg2 has only its base class, without a code.
    """
    if type(error) is not psycopg2.DatabaseError or error.pgcode is not None:
        return error
    lost = psycopg2.OperationalError(f"the connection was lost while rows were read: {error}")
    lost.__cause__ = error
    return lost


def _check_schema(cursor: Cursor, query: str, wanted: pa.Schema) -> None:
    """Raise ProgrammingError for columns that could become the wanted ones only by a guess."""
    cursor.execute(f"SELECT * FROM ({query}) AS rows LIMIT 0")  # noqa: S608
    given = cursor.description or ()
    if len(given) != len(wanted):
        raise psycopg2.ProgrammingError(
            f"the SELECT has {len(given)} columns ({', '.join(c.name for c in given)}), the schema "
            f"{len(wanted)} ({', '.join(wanted.names)})"
        )
    for column, field in zip(given, wanted, strict=True):
        if not any(of_kind(field.type) and column.type_code in oids for of_kind, oids in _OIDS.items()):
            cursor.execute("SELECT format_type(%s, NULL)", (column.type_code,))
            [(type_,)] = cursor.fetchall()
            raise psycopg2.ProgrammingError(
                f"column {field.name} comes as {type_}, which is not {field.type}: cast it in the SELECT"
            )


def _convert_options(schema: pa.Schema) -> pc.ConvertOptions:
    # Lists come as PostgreSQL's array literals, few of them different, so each is parsed once per batch.
    types = {
        field.name: pa.dictionary(pa.int32(), pa.string()) if pa.types.is_list(field.type) else field.type
        for field in schema
    }
    return pc.ConvertOptions(
        column_types=types,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["t"],
        false_values=["f"],
    )


def _parse(block: bytes, schema: pa.Schema, options: pc.ConvertOptions) -> pa.RecordBatch:
    read = pc.ReadOptions(column_names=schema.names, block_size=len(block) + 1, use_threads=False)
    try:
        [batch] = pc.read_csv(pa.BufferReader(block), read, _PARSE, options).to_batches()
    except pa.ArrowInvalid as error:
        raise _misfit(error, schema) from error
    columns = [
        _lists(column, field) if pa.types.is_list(field.type) else column
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _misfit(error: pa.ArrowInvalid, schema: pa.Schema) -> Exception:
    """Return what to raise for a value that its type cannot hold."""
    found = re.search(r"column #(\d+)", str(error))
    field = schema.field(int(found[1])) if found else None
    if field is not None and (pa.types.is_timestamp(field.type) or pa.types.is_date32(field.type)):
        return psycopg2.DataError(
            f"column {field.name} holds infinity, or a time outside the years 1 to 9999: {error}"
        )
    return pa.ArrowInvalid(f"column {field.name}: {error}") if field is not None else error


def _lists(literals: pa.DictionaryArray, field: pa.Field) -> pa.Array:
    values = [STRINGARRAY(literal, None) for literal in literals.dictionary.to_pylist()]
    # `pa.array` would load pandas (70 MB).
    items = StringBuilder()
    try:
        items.append_values([item for value in values for item in value])
    except TypeError as error:
        raise psycopg2.DataError(f"column {field.name} holds a list of lists: {values!r:.80}") from error
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    offsets = pa.Array.from_buffers(pa.int32(), len(offsets), [None, pa.py_buffer(offsets)])
    return pa.ListArray.from_arrays(offsets, items.finish(), type=field.type).take(literals.indices)
