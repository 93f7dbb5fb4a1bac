"""Streams of Arrow batches on their way to and from a warehouse: brought to a schema, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from ecommersss_platform.contracts import PARTITION_COLUMN, RawTable
from ecommersss_platform.warehouse import SchemaError
from ecommersss_platform.warehouse.checksum import Checksums
from ecommersss_platform.warehouse.names import full_name


def conformed(reader: pa.RecordBatchReader, schema: pa.Schema, table: str) -> pa.RecordBatchReader:
    """The same rows with exactly the schema's columns, order and types.

    A nullable column that is missing becomes NULL. Types are cast only where no value is lost. Nothing is
    copied when the schema is already right.

    Raises SchemaError for a column too many or a required one too few, and, while reading, for a value
    that does not fit.
    """
    if _same_types(reader.schema, schema):
        return reader
    given = reader.schema.names
    unknown = [name for name in given if name not in schema.names]
    if unknown:
        raise SchemaError(f"{table} has no column {', '.join(unknown)}; it has {', '.join(schema.names)}")
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


def _same_types(one: pa.Schema, other: pa.Schema) -> bool:
    return one.names == other.names and one.types == other.types


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


def asked_schema(
    table: RawTable | str, columns: Sequence[str] | None, existing: Sequence[str]
) -> pa.Schema | None:
    """The contract's schema of the asked columns, for a table that has a contract; None for one without.

    Raises SchemaError for a column that is not in the contract, or that the table, whose columns are
    `existing`, should have and has not.
    """
    if isinstance(table, str):
        return None
    contract = table.arrow_schema
    wanted = columns or contract.names
    unknown = [c for c in wanted if c not in contract.names]
    if unknown:
        raise SchemaError(
            f"{full_name(table)} has no column {', '.join(unknown)}; it has {', '.join(contract.names)}"
        )
    required = [c for c in wanted if c not in existing and not contract.field(c).nullable]
    if required:
        raise SchemaError(
            f"{full_name(table)} in the warehouse has no column {', '.join(required)}: publish it first"
        )
    return pa.schema([contract.field(c) for c in wanted])


def plain(field: pa.Field) -> pa.Field:
    """A field as the contract would write it: lists name their items as Arrow does, instants are in "UTC"."""
    if pa.types.is_list(field.type):
        return field.with_type(pa.list_(field.type.value_type))
    if pa.types.is_timestamp(field.type) and field.type.tz:
        return field.with_type(pa.timestamp(field.type.unit, tz="UTC"))
    return field


class Tally:
    """A reader that counts and sums up what passes, and keeps the error that ended it.

    Engines that pull batches through the Arrow C interface turn an exception of the source into a text of
    their own; `error` is the exception itself, so that a lost connection can be told from a bad row.
    """

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self.rows = 0
        self.bytes = 0
        self.checksums = Checksums()
        """Of the days of what has passed; of none when the rows have no day."""
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
