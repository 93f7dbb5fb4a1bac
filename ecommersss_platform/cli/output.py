"""Printed rows: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from streaming.business_days import JAKARTA


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


class QueryFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON text: decimals as exact numbers where possible, instants and days as ISO 8601."""
    return json.dumps(value, default=_jsonable, ensure_ascii=False, indent=indent)


def _jsonable(value: object) -> object:
    if isinstance(value, Decimal):
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
    """Return a table cell for people: instants in Asia/Jakarta, to the second."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return f"{value.astimezone(JAKARTA):%Y-%m-%d %H:%M:%S}"
    return _cell(value)


def print_rows(
    columns: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    style: Format | QueryFormat = Format.TABLE,
    *,
    title: str | None = None,
    file: TextIO | None = None,
) -> None:
    """Print rows: a table (instants in Asia/Jakarta), one JSON object a line, or CSV with a header."""
    out = file or sys.stdout
    if style == "json":
        for row in rows:
            out.write(as_json(dict(row)) + "\n")
    elif style == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    else:
        table = Table(title=title, title_justify="left", title_style="bold", show_lines=False)
        shown = list(rows)
        for name in columns:
            numeric = any(isinstance(row[name], int | float | Decimal) for row in shown)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in shown:
            table.add_row(*(_shown(row[name]) for name in columns))
        # A pipe has no width, so a table gets plenty of room.
        console = Console(file=out, width=None if out.isatty() else 200, markup=False, highlight=False)
        console.print(table)
