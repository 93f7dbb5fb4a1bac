"""Reading an imported file: CSV or JSONL, to rows in a table's columns, or a list of what is wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from streaming.errors import PlatformError
from streaming.files import open_lines, refuse_array
from streaming.imports.tables import ImportedTable
from streaming.imports.values import InvalidValue, quoted

PROBLEMS_LISTED = 10
"""How many invalid lines a message shows."""
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}


class InvalidFile(PlatformError):
    """A file that was not imported at all. `problems` describes its first invalid lines, one each."""

    def __init__(self, path: Path, problems: list[str], more: int = 0) -> None:
        self.problems = problems
        listed = "\n".join(f"  {problem}" for problem in problems)
        rest = f"\n  ... and {more:,} more lines" if more else ""
        super().__init__(f"nothing was imported from {path}; correct the file and try again:\n{listed}{rest}")


class _Line(NamedTuple):
    """A line of a file: its number, and its fields, or the text of what is wrong, or None if it is empty."""

    number: int
    fields: Mapping[str, object] | str | None


class Row(NamedTuple):
    """A line of a file as values in the sequence of the table's columns, and the line's number."""

    values: tuple[Any, ...]
    line: int


def read_rows(path: Path, table: ImportedTable) -> tuple[list[Row], int]:
    """Return the file's rows, and the number of empty ones.

    Raises `InvalidFile`, `PlatformError`.
    """
    rows: list[Row] = []
    first_seen: dict[tuple[Any, ...], int] = {}
    identity = [table.columns.index(name) for name in table.identity]
    problems: list[str] = []
    invalid = skipped = 0
    try:
        with open_lines(path) as source:
            for number, fields in _reader(path, source.file)(path, source.file, table):
                if fields is None:
                    skipped += 1
                    continue
                values, found = ((), [fields]) if isinstance(fields, str) else _parse(fields, table)
                if not found:
                    same = tuple(values[at] for at in identity)
                    if same not in first_seen:
                        first_seen[same] = number
                        rows.append(Row(values, number))
                        continue
                    what = f"{table.key} {same[0]}" if len(same) == 1 else "the same row"
                    found = [f"{what} is already on line {first_seen[same]}"]
                invalid += 1
                if invalid <= PROBLEMS_LISTED:
                    more = f" (and {len(found) - 1} more on this line)" if len(found) > 1 else ""
                    problems.append(f"line {number}: {found[0]}{more}")
    except UnicodeDecodeError as error:
        problems.append(f"the file is not UTF-8 ({error.reason} near byte {error.start}); save it as UTF-8")
    except csv.Error as error:
        problems.append(f"not valid CSV: {error}")
    if problems:
        raise InvalidFile(path, problems, more=max(0, invalid - PROBLEMS_LISTED))
    return rows, skipped


_Reader = Callable[[Path, BinaryIO, ImportedTable], Iterator[_Line]]


def _reader(path: Path, file: BinaryIO) -> _Reader:
    """Return the reader of the file's kind: by the ending of its name, else by its first character."""
    readers: dict[str, _Reader] = {
        ".csv": _csv_lines,
        ".tsv": _csv_lines,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json_lines,
    }
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix:
        if suffix not in readers:
            raise PlatformError(f"the format of {path} is unknown: name it .csv or .jsonl")
        return readers[suffix]
    start = file.peek(1).lstrip()[:1]  # type: ignore[attr-defined]
    return _json_lines if start in (b"{", b"[") else _csv_lines


def _parse(fields: Mapping[str, object], table: ImportedTable) -> tuple[tuple[Any, ...], list[str]]:
    """Return a line's values in the table's sequence, and its problems, wrong values before missing ones.

    Use no values if there are any problems.
    """
    problems = [
        f"unknown column {quoted(name)}; {table.name} have {', '.join(table.columns)}"
        for name in fields
        if name not in table.columns
    ]
    values: list[Any] = []
    missing: list[str] = []
    for name in table.columns:
        value = fields.get(name)
        if value is None or value == "":
            if name in table.required:
                missing.append(f"{name} is missing")
            values.append(None)
            continue
        try:
            values.append((table.required.get(name) or table.optional[name])(value))
        except InvalidValue as error:
            problems.append(f"{name} {error}")
    wrong = None if problems or missing else table.check(dict(zip(table.columns, values, strict=True)))
    return tuple(values), [*problems, *missing, *([wrong] if wrong else [])]


def _csv_lines(path: Path, file: BinaryIO, table: ImportedTable) -> Iterator[_Line]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    first = text.readline()
    delimiter, header = _header(first, table)
    wrong = _header_problem(header, table)
    if wrong:
        yield _Line(1, wrong)
        return
    reader = csv.reader(chain([first], text), delimiter=delimiter, strict=True)
    next(reader)
    before = reader.line_num
    for values in reader:
        number, before = before + 1, reader.line_num
        if not values:
            continue
        if not any(value.strip() for value in values):
            yield _Line(number, None)
        elif len(values) != len(header):
            yield _Line(number, f"has {len(values)} values, but the header has {len(header)} columns")
        else:
            yield _Line(number, dict(zip(header, values, strict=True)))


def _header(line: str, table: ImportedTable) -> tuple[str, list[str]]:
    """Return the delimiter and the names of a header: those with the most known columns."""
    found = {
        delimiter: [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
        for delimiter in _DELIMITERS
    }
    delimiter = max(found, key=lambda d: len(set(found[d]) & set(table.columns)))
    return delimiter, found[delimiter]


def _header_problem(header: list[str], table: ImportedTable) -> str | None:
    if not header:
        return f"the file is empty; it needs a header with {', '.join(table.columns)}"
    for name in header:
        if name not in table.columns:
            known = f"{table.name} have {', '.join(table.columns)}"
            if len(header) == 1:
                known += f", separated by {', '.join(_DELIMITERS.values())}"
            return f"unknown column {quoted(name)}; {known}"
        if header.count(name) > 1:
            return f"column {name} occurs twice"
    missing = [name for name in table.required if name not in header]
    return f"the header has no {', '.join(missing)}" if missing else None


def _json_lines(path: Path, file: BinaryIO, table: ImportedTable) -> Iterator[_Line]:
    first = True
    for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8"), start=1):
        if not line.strip():
            continue
        if first:
            refuse_array(path, line.encode())
            first = False
        try:
            # Keep numbers as text: a price must not become a binary fraction.
            fields = json.loads(line, parse_int=_Number, parse_float=_Number)
        except (ValueError, RecursionError) as error:
            position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
            yield _Line(number, f"is not JSON{position}")
            continue
        yield _Line(number, fields if isinstance(fields, dict) else "is JSON, but not an object")


class _Number(str):
    """A JSON number as text, exactly as the line has it."""

    __slots__ = ()
