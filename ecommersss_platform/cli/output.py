"""Printed rows: a table for people; CSV, JSON and JSON Lines for programs."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecommersss_platform.terminal import visible, visible_json
from streaming.business_days import JAKARTA
from streaming.chunks import chunks


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class QueryFormat(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


_ROWS_PER_TABLE = 1_000


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON text: decimals as exact numbers where possible, instants and days as ISO 8601.

    NaN and infinite numbers become null, because JSON has none.
    """
    try:
        text = _dumped(value, indent)
    except ValueError:  # NaN or an infinity
        text = _dumped(_finite(value), indent)
    return visible_json(text)


def _dumped(value: Any, indent: int | None) -> str:
    return json.dumps(value, default=_jsonable, ensure_ascii=False, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _jsonable(value: object) -> object:
    if isinstance(value, Decimal):
        if value.is_finite() and int(value) == value and value.as_tuple().exponent == 0:
            return int(value)
        # A number if that is exact; otherwise text, which keeps every digit.
        number = float(value)
        return number if Decimal(repr(number)) == value else str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict | bytes | tuple):
        text = _jsonable(value) if isinstance(value, bytes) else as_json(value)
        return str(text)
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)


def _shown(value: object) -> str:
    """Return a table cell for people: instants in Asia/Jakarta, to the second; decimals with separators."""
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:,f}"
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            return f"{value.astimezone(JAKARTA):%Y-%m-%d %H:%M:%S}"
        except OverflowError:  # the last hours of the year 9999
            return _cell(value)
    return visible(_cell(value))


def print_rows(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    style: Format = Format.TABLE,
    *,
    title: str | None = None,
) -> None:
    """Print rows to standard output: a table, a JSON array, or one JSON object a line."""
    values = ([row[name] for name in columns] for row in rows)
    write_rows(columns, values, QueryFormat(style), sys.stdout, title=title)


def write_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    style: QueryFormat,
    out: TextIO,
    *,
    title: str | None = None,
    unwrap: bool = False,
) -> None:
    """Write rows, whose values are in the order of the columns, as they come.

    A table has instants in Asia/Jakarta and separators in decimals, and begins again after 1,000 rows. CSV
    has a header. JSON is one array; with `unwrap`, a single row is an object without the array. In JSON, the
    second of two columns `a` is `a_1`.
    """
    match style:
        case QueryFormat.TABLE:
            tables = chunks(rows, _ROWS_PER_TABLE)
            _print_table(columns, next(tables, []), out, title)
            for more in tables:
                _print_table(columns, more, out, None)
        case QueryFormat.CSV:
            shown = visible if out.isatty() else str
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([shown(name) for name in columns])
            writer.writerows([shown(_cell(value)) for value in row] for row in rows)
        case QueryFormat.JSON:
            texts = _objects(columns, rows)
            first = list(islice(texts, 2))
            if unwrap and len(first) == 1:
                out.write(f"{first[0]}\n")
                return
            separator = "[\n"
            for text in chain(first, texts):
                out.write(f"{separator}{text}")
                separator = ",\n"
            out.write("\n]\n" if first else "[]\n")
        case QueryFormat.JSONL:
            out.writelines(f"{text}\n" for text in _objects(columns, rows))
        case QueryFormat.PARQUET:
            raise ValueError("Parquet is not text: see `query_output.write_parquet`")


def _objects(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    names = unique_names(columns)
    return (as_json(dict(zip(names, row, strict=True))) for row in rows)


def unique_names(columns: Sequence[str]) -> list[str]:
    """Return the names of the columns; a repeated name `a` becomes `a_1`, `a_2`, as DuckDB names them."""
    names: list[str] = []
    for column in columns:
        name, number = column, 0
        while name in names or (number and name in columns):
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names


def _print_table(columns: Sequence[str], rows: list[Sequence[Any]], out: TextIO, title: str | None) -> None:
    """Print a table; one that is too wide for the terminal is turned: each row becomes a column."""
    # A pipe has no width, so a table gets plenty of room.
    console = Console(file=out, width=None if out.isatty() else 200, markup=False, highlight=False)
    if title is not None:
        # Not the table's own title, which is broken at the width of a narrow table.
        console.print(title, style="bold")
    names = [Text(visible(name)) for name in columns]
    cells = [[_text(value) for value in row] for row in rows]
    least = [max(map(_least_width, column)) for column in zip(names, *cells, strict=True)]
    if sum(least) + 3 * len(least) + 1 <= console.width:
        table = Table()
        for index, name in enumerate(names):
            numeric = any(row[index].no_wrap for row in cells)
            justify: Literal["left", "right"] = "right" if numeric else "left"
            table.add_column(name, justify=justify, overflow="fold", min_width=least[index])
        for row in cells:
            table.add_row(*row)
        console.print(table)
        return
    for block in _blocks(cells, console.width - max(name.cell_len for name in names) - 4):
        turned = Table(show_header=False)
        turned.add_column(no_wrap=True)
        for _ in block:
            turned.add_column(overflow="fold", max_width=_WIDEST_TURNED)
        for cells_of_name in zip(names, *block, strict=True):
            turned.add_row(*cells_of_name)
        console.print(turned)


_FOLDED_TO, _WIDEST_TURNED = 20, 40
"""Longer texts are folded: to no less than this width in a table, and to this width in a turned one."""


def _text(value: object) -> Text:
    """Return a cell. A number is not folded, because one that is broken in two reads as two numbers."""
    is_number = isinstance(value, int | float | Decimal)
    return Text(_shown(value), justify="right" if is_number else None, no_wrap=is_number or None)


def _least_width(cell: Text) -> int:
    return cell.cell_len if cell.no_wrap else min(cell.cell_len, _FOLDED_TO)


def _blocks(rows: list[list[Text]], room: int) -> Iterator[list[list[Text]]]:
    """Yield as many rows at a time as stand side by side in this width, and at least one."""
    block: list[list[Text]] = []
    used = 0
    for row in rows:
        width = min(max(cell.cell_len for cell in row), _WIDEST_TURNED) + 3
        if block and used + width > room:
            yield block
            block, used = [], 0
        block.append(row)
        used += width
    yield block
