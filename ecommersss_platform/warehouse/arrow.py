"""Streams of Arrow batches on their way to and from a warehouse: fitted to a schema, counted, previewed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable
from ecommersss_platform.warehouse.checksum import Checksums
from ecommersss_platform.warehouse.errors import SchemaError
from ecommersss_platform.warehouse.names import full_name


def conform(reader: pa.RecordBatchReader, schema: pa.Schema, table: str) -> pa.RecordBatchReader:
    """Return the same rows with exactly the schema's columns, order and types.

    A missing nullable column becomes NULL. A type is cast only where no value is lost. Nothing is copied if
    the schema already fits.

    Raises SchemaError for an unknown column or a missing required one, and, while reading, for a value that
    does not fit.
    """
    if reader.schema.names == schema.names and reader.schema.types == schema.types:
        return reader
    given = reader.schema.names
    _refuse_unknown(given, schema.names, table)
    if len(set(given)) != len(given):
        raise SchemaError(f"{table}: a column is given twice: {', '.join(given)}")
    missing = [f.name for f in schema if f.name not in given and not f.nullable]
    if missing:
        raise SchemaError(
            f"{table} needs the column {', '.join(missing)}; the rows have only {', '.join(given)}"
        )

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            yield pa.RecordBatch.from_arrays([_cast(batch, f, table) for f in schema], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _refuse_unknown(names: Sequence[str], known: Sequence[str], table: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SchemaError(f"{table} has no column {', '.join(unknown)}; it has {', '.join(known)}")


def _cast(batch: pa.RecordBatch, wanted: pa.Field, table: str) -> pa.Array:
    if wanted.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, wanted.type)
    column = batch.column(wanted.name)
    try:
        return column.cast(wanted.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"{table}.{wanted.name}: {column.type} does not fit {wanted.type}: {error}"
        ) from error


def asked_schema(table: RawTable | str, columns: Sequence[str] | None, existing: pa.Schema) -> pa.Schema:
    """Return the schema of the columns to read (None: all): the contract's, else that of the existing table.

    Raises SchemaError for a column that the contract, or a table without one, does not have, and for a
    required column that the existing table lacks.
    """
    name = full_name(table)
    schema = existing if isinstance(table, str) else table.arrow_schema
    wanted = columns or schema.names
    _refuse_unknown(wanted, schema.names, name)
    absent = [c for c in wanted if c not in existing.names and not schema.field(c).nullable]
    if absent:
        raise SchemaError(f"{name} in the warehouse has no column {', '.join(absent)}: publish it first")
    return pa.schema([schema.field(c) for c in wanted])


def normalised(schema: pa.Schema) -> pa.Schema:
    """Return an engine's schema as a contract would write it.

    Lists name their items as Arrow does, and the time zone of instants is "UTC".
    """
    return pa.schema([_normalised(f) for f in schema])


def _normalised(field: pa.Field) -> pa.Field:
    if pa.types.is_list(field.type):
        return field.with_type(pa.list_(field.type.value_type))
    if pa.types.is_timestamp(field.type) and field.type.tz:
        return field.with_type(pa.timestamp(field.type.unit, tz="UTC"))
    return field


class CountingReader:
    """A reader that counts rows and bytes, computes checksums, and keeps the error that ended it.

    Engines that pull batches through the Arrow C interface replace an exception of the source by a text of
    their own. `error` is the original, so that a lost connection differs from a bad row.
    """

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.rows = 0
        self.bytes = 0
        self.checksums = Checksums()
        """Checksums of the days read so far; none if the rows have no day."""
        self.error: Exception | None = None
        self.reader = pa.RecordBatchReader.from_batches(reader.schema, self._counted(reader))

    def _counted(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        by_day = PARTITION_COLUMN in reader.schema.names
        try:
            for batch in reader:
                if by_day:
                    self.checksums.add(batch)
                self.rows += batch.num_rows
                self.bytes += batch.nbytes
                yield batch
        except Exception as error:
            self.error = error
            raise


class PreviewReader:
    """A reader that keeps the first rows, for a preview."""

    def __init__(self, reader: pa.RecordBatchReader, size: int) -> None:
        self._kept: list[pa.RecordBatch] = []
        self._size = size
        self.reader = pa.RecordBatchReader.from_batches(reader.schema, self._passed(reader))

    def _passed(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        wanted = self._size
        for batch in reader:
            if wanted > 0:
                self._kept.append(batch.slice(0, wanted))
                wanted -= batch.num_rows
            yield batch

    @property
    def rows(self) -> pa.Table:
        return pa.Table.from_batches(self._kept, schema=self.reader.schema)
