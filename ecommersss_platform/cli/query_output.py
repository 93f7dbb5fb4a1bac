"""The result of a query, from Arrow to text or to a Parquet file, a few thousand rows at a time."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from ecommersss_platform.cli.output import QueryFormat, unique_names, write_rows
from streaming.errors import PlatformError
from streaming.files import new_file

_ROWS_AT_ONCE = 5_000
_EPOCH = date(1970, 1, 1).toordinal()
_DAYS_IN_400_YEARS = 146_097
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_INFINITY = {pa.date32(): 2**31 - 1, pa.timestamp("us"): 2**63 - 1}
"""DuckDB's infinite days and instants; the negative ones have the negative value."""


def write_result(rows: pa.RecordBatchReader, style: QueryFormat, file: Path | None) -> None:
    """Write the rows to a new file, or to standard output.

    Raises PlatformError for a file that exists or cannot be written. An incomplete file is removed.
    """
    if file is None:
        write_rows(rows.schema.names, python_rows(rows), style, sys.stdout, unwrap=True)
        return
    with new_file(file) as out:
        if style is QueryFormat.PARQUET:
            _write_parquet(rows, out)
        else:
            with io.TextIOWrapper(out, encoding="utf-8", newline="") as text:
                write_rows(rows.schema.names, python_rows(rows), style, text, unwrap=True)


def _write_parquet(rows: pa.RecordBatchReader, out: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    names = unique_names(rows.schema.names)
    schema = pa.schema([field.with_name(name) for field, name in zip(rows.schema, names, strict=True)])
    try:
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for batch in rows:
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise PlatformError(f"Parquet cannot hold the result ({error}): cast the column to text") from error


def python_rows(rows: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    """Yield each row's values, by position."""
    for batch in rows:
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            part = batch.slice(start, _ROWS_AT_ONCE)
            yield from zip(*(_values(column) for column in part.columns), strict=True)


def _values(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> Any:
    """Return a value; text for a day or an instant that Python's types cannot hold."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        type_ = scalar.type
        if pa.types.is_map(type_) or pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
            return [_value(inner) for inner in scalar.values]
        if pa.types.is_struct(type_):
            return {name: _value(inner) for name, inner in scalar.items()}
        if pa.types.is_date32(type_) or pa.types.is_timestamp(type_):
            return _far_time(scalar.value, type_)
        return str(scalar.cast(pa.string()))


def _far_time(value: int, type_: pa.DataType) -> str:
    """Return a day, or an instant in UTC, as ISO 8601 with any year, or as `infinity` or `-infinity`."""
    instant = pa.types.is_timestamp(type_)
    if abs(value) == _INFINITY.get(pa.timestamp(type_.unit) if instant else type_):
        return "infinity" if value > 0 else "-infinity"
    per_second = _PER_SECOND[type_.unit] if instant else 1
    days, rest = divmod(value, 86_400 * per_second) if instant else (value, 0)
    # The calendar repeats after 400 years, so Python knows an equal day.
    cycles, day = divmod(days + _EPOCH - 1, _DAYS_IN_400_YEARS)
    equal = date.fromordinal(day + 1)
    year = equal.year + 400 * cycles
    text = f"{'-' if year < 0 else ''}{abs(year):04}-{equal:%m-%d}"
    if not instant:
        return text
    seconds, fraction = divmod(rest, per_second)
    text += f"T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if fraction:
        text += f".{fraction:0{len(str(per_second)) - 1}}"
    return f"{text}+00:00" if type_.tz else text
