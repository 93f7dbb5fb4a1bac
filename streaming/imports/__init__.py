"""Import users or products from a CSV or JSONL file into PostgreSQL, all rows or none."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.business_days import EARLIEST, JAKARTA, LATEST, business_day
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.files import open_lines, refuse_array
from streaming.orders import CENT, MAX_REFERENCE

MAX_TEXT = 1_000
"""Longest name, address or category, in characters."""
MAX_PRICE = Decimal("9999999999999999.99")
"""Largest price in rupiah: it is NUMERIC(18, 2) in the database."""

_PROBLEMS_LISTED = 10
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
_ROWS_PER_INSERT = 1_000
_PRICE = re.compile(r"([0-9]{1,16}|[0-9]{1,3}(,[0-9]{3}){1,5})(\.[0-9]{1,2})?", re.ASCII)


class InvalidFile(PlatformError):
    """A file that was not imported at all. `problems` describes its first invalid lines, one each."""

    def __init__(self, path: Path, problems: list[str], more: int = 0) -> None:
        self.problems = problems
        listed = "\n".join(f"  {problem}" for problem in problems)
        rest = f"\n  ... and {more:,} more lines" if more else ""
        super().__init__(f"nothing was imported from {path}; correct the file and try again:\n{listed}{rest}")


@dataclass(frozen=True)
class Imported:
    """How many rows of a file were inserted, updated, or changed nothing."""

    inserted: int
    updated: int
    unchanged: int
    skipped: int = field(default=0, compare=False)
    """Rows of a CSV file that have only delimiters."""
    dated_late: int = field(default=0, compare=False)
    """Inserted rows that were created on an earlier day, while their version is dated now."""
    repaired: int = field(default=0, compare=False)
    """Existing rows that gained a version at their created_date, before their first one."""

    def __str__(self) -> str:
        text = f"{self.inserted:,} inserted, {self.updated:,} updated, {self.unchanged:,} unchanged"
        text += f", {self.repaired:,} dated back" if self.repaired else ""
        return f"{text}, {self.skipped:,} empty rows skipped" if self.skipped else text


def import_file(
    url: str, entity: str, path: Path, *, backdate: bool = False, not_before: date | None = None
) -> Imported:
    """Insert or update users or products (`entity`: "users" or "products") from a file.

    The file is UTF-8: CSV with a header (.csv, .tsv), or JSONL with an object on each line (.jsonl, .ndjson);
    either may be packed (.gz). The kind of a pipe, of `-` and of a name without an ending is taken from its
    first character. CSV may be separated by commas, semicolons, tabs or `|`. The file has the table's columns
    except updated_at. created_date (RFC 3339; without an offset it is Jakarta time)
    and default_payment are optional: a new row was then created now, and an existing row keeps its values. A
    row that changes nothing makes no new version. Prices may have commas between thousands.

    New versions are dated now. With `backdate`, for loading past data, the version of a *new* row is dated at
    its created_date, and an existing row whose first version is later gains one there. Closed days then
    change, so materialise them again. No version is dated before the business day `not_before`: there are no
    partitions before the first.

    Raises `InvalidFile`, which lists the first 10 invalid lines, and `PlatformError` for a file that cannot
    be read or an unknown entity; nothing is imported then.
    """
    table = _TABLES.get(entity)
    if table is None:
        raise PlatformError(f"only {' and '.join(_TABLES)} can be imported, not {entity!r}")
    rows, skipped = _rows(path, table)
    with closing(connect(url, "ecommersss import")) as connection, connection, connection.cursor() as cursor:
        if backdate:
            earliest = datetime.combine(not_before, time.min, JAKARTA) if not_before else EARLIEST
            imported = _upsert(cursor, table, rows, dated_from=earliest)
        else:
            imported = _upsert(cursor, table, rows)
    return replace(imported, skipped=skipped)


class _InvalidValue(ValueError):
    """A value that breaks a rule, which the text names."""


def _id(value: object) -> int:
    text = _stripped(value)
    if (
        text is not None
        and len(text) <= 10
        and text.isascii()
        and text.isdigit()
        and 1 <= int(text) <= MAX_REFERENCE
    ):
        return int(text)
    raise _InvalidValue(f"must be an integer from 1 to {MAX_REFERENCE}, not {_quoted(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _InvalidValue("must be non-empty text")
    if len(value) > MAX_TEXT:
        raise _InvalidValue(f"must be at most {MAX_TEXT} characters long, not {len(value)}")
    for index, character in enumerate(value):
        # PostgreSQL cannot store these.
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise _InvalidValue(f"has U+{ord(character):04X} at index {index}, which cannot be stored")
    return value.strip()


def _email(value: object) -> str:
    text = _text(value)
    # The address is personal data: keep it out of messages.
    if text.count("@") != 1 or text.startswith("@") or text.endswith("@"):
        raise _InvalidValue("must be an address like name@domain")
    return text


def _price(value: object) -> Decimal:
    text = _stripped(value)
    # Refuse a third place, even a zero, and a decimal comma: "125.000" and "1,5" mean different things in
    # Jakarta and in a spreadsheet.
    if text is not None and _PRICE.fullmatch(text):
        price = Decimal(text.replace(",", "")).quantize(CENT)
        if price <= MAX_PRICE:
            return price
    raise _InvalidValue(
        f"must be rupiah from 0 to {MAX_PRICE}, like 125000 or 125000.50, not {_quoted(value)}"
    )


def _instant(value: object) -> datetime:
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is not None:
        instant = instant if instant.tzinfo else instant.replace(tzinfo=JAKARTA)
        if EARLIEST <= instant < LATEST:
            return instant
    raise _InvalidValue(
        f"must be a time like 2025-06-01T10:30:00+07:00 from {EARLIEST.year} on, not {_quoted(value)}"
    )


@dataclass(frozen=True)
class _Table:
    """A table that can be imported: its columns, and a parser for the values of each."""

    name: str
    required: Mapping[str, Callable[[object], Any]]
    optional: Mapping[str, Callable[[object], Any]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


_TABLES = {
    "users": _Table(
        "users",
        {"id": _id, "username": _text, "email": _email, "first_name": _text, "last_name": _text},
        {"default_payment": _text, "created_date": _instant},
    ),
    "products": _Table(
        "products",
        {"id": _id, "product_name": _text, "category": _text, "price": _price},
        {"created_date": _instant},
    ),
}


class _Line(NamedTuple):
    """A line of a file: its number, and its fields, or the text of what is wrong, or None if it is empty."""

    number: int
    fields: Mapping[str, object] | str | None


def _rows(path: Path, table: _Table) -> tuple[list[tuple[Any, ...]], int]:
    """Return the file's rows, with columns in the table's sequence, and the number of empty ones.

    Raises `InvalidFile`, `PlatformError`.
    """
    rows: list[tuple[Any, ...]] = []
    first_seen: dict[int, int] = {}
    problems: list[str] = []
    invalid = skipped = 0
    try:
        with open_lines(path) as source:
            for number, fields in _reader(path, source.file)(path, source.file, table):
                if fields is None:
                    skipped += 1
                    continue
                row, found = ((), [fields]) if isinstance(fields, str) else _parse(fields, table)
                if not found and row[0] in first_seen:
                    found = [f"id {row[0]} is already on line {first_seen[row[0]]}"]
                if not found:
                    first_seen[row[0]] = number
                    rows.append(row)
                    continue
                invalid += 1
                if invalid <= _PROBLEMS_LISTED:
                    more = f" (and {len(found) - 1} more on this line)" if len(found) > 1 else ""
                    problems.append(f"line {number}: {found[0]}{more}")
    except UnicodeDecodeError as error:
        problems.append(f"the file is not UTF-8 ({error.reason} near byte {error.start}); save it as UTF-8")
    except csv.Error as error:
        problems.append(f"not valid CSV: {error}")
    if problems:
        raise InvalidFile(path, problems, more=max(0, invalid - _PROBLEMS_LISTED))
    return rows, skipped


_Reader = Callable[[Path, BinaryIO, "_Table"], Iterator[_Line]]


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


def _parse(fields: Mapping[str, object], table: _Table) -> tuple[tuple[Any, ...], list[str]]:
    """Return a line's values in the table's sequence, and its problems, wrong values before missing ones.

    Use no values if there are any problems.
    """
    problems = [
        f"unknown column {_quoted(name)}; {table.name} have {', '.join(table.columns)}"
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
        except _InvalidValue as error:
            problems.append(f"{name} {error}")
    return tuple(values), problems + missing


def _csv_lines(path: Path, file: BinaryIO, table: _Table) -> Iterator[_Line]:
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


def _header(line: str, table: _Table) -> tuple[str, list[str]]:
    """Return the delimiter and the names of a header: those with the most known columns."""
    found = {
        delimiter: [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
        for delimiter in _DELIMITERS
    }
    delimiter = max(found, key=lambda d: len(set(found[d]) & set(table.columns)))
    return delimiter, found[delimiter]


def _header_problem(header: list[str], table: _Table) -> str | None:
    if not header:
        return f"the file is empty; it needs a header with {', '.join(table.columns)}"
    for name in header:
        if name not in table.columns:
            known = f"{table.name} have {', '.join(table.columns)}"
            if len(header) == 1:
                known += f", separated by {', '.join(_DELIMITERS.values())}"
            return f"unknown column {_quoted(name)}; {known}"
        if header.count(name) > 1:
            return f"column {name} occurs twice"
    missing = [name for name in table.required if name not in header]
    return f"the header has no {', '.join(missing)}" if missing else None


def _json_lines(path: Path, file: BinaryIO, table: _Table) -> Iterator[_Line]:
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


def _stripped(value: object) -> str | None:
    return value.strip() if isinstance(value, str) else None


def _quoted(value: object) -> str:
    """Render a value for a message, cut short."""
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:60]}... ({len(str(value))} characters)"


def _upsert(
    cursor: Cursor, table: _Table, rows: list[tuple[Any, ...]], dated_from: datetime | None = None
) -> Imported:
    # The names of the table and columns are ours, not the file's.
    columns = ", ".join(table.columns)
    # Keep other writers out of the table; orders that refer to its rows can still be stored.
    cursor.execute(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")
    like = f"SELECT {columns} FROM {table.name} WITH NO DATA"  # noqa: S608
    cursor.execute(f"CREATE TEMPORARY TABLE imported ON COMMIT DROP AS {like}")
    execute_values(cursor, f"INSERT INTO imported ({columns}) VALUES %s", rows, page_size=_ROWS_PER_INSERT)  # noqa: S608
    cursor.execute("CREATE INDEX ON imported (id)")
    cursor.execute("CREATE INDEX ON imported (created_date)")
    cursor.execute("ANALYZE imported")

    repaired = 0
    if dated_from is not None:
        names = ", ".join(name for name in table.columns if name != "created_date")
        cursor.execute(_DATE_BACK.format(table=table.name, names=names), [dated_from])
        repaired = cursor.rowcount

    # Then update existing rows, dated now; the trigger stops an update that changes nothing.
    assignments = ", ".join(
        f"{name} = coalesce(i.{name}, t.{name})" for name in table.columns if name != "id"
    )
    cursor.execute(
        f"UPDATE {table.name} t SET {assignments} FROM imported i WHERE t.id = i.id"  # noqa: S608
    )
    updated = cursor.rowcount
    cursor.execute(f"DELETE FROM imported i USING {table.name} t WHERE t.id = i.id")  # noqa: S608
    existing = cursor.rowcount

    cursor.execute("UPDATE imported SET created_date = now() WHERE created_date IS NULL")
    insert = f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM imported"  # noqa: S608
    dated_late = 0
    if dated_from is None:
        today = datetime.combine(business_day(datetime.now(JAKARTA)), time.min, JAKARTA)
        cursor.execute("SELECT count(*) FROM imported WHERE created_date < %s", [today])
        [(dated_late,)] = cursor.fetchall()
        cursor.execute(f"{insert} ORDER BY id")
    else:
        # Insert instant by instant, in the server: the trigger dates rows by the transaction's clock.
        cursor.execute("SELECT set_config('ecommersss.dated_from', %s, true)", [dated_from.isoformat()])
        cursor.execute(_BY_INSTANT.format(insert=insert))
    return Imported(
        inserted=len(rows) - existing,
        updated=updated,
        unchanged=existing - updated,
        dated_late=dated_late,
        repaired=repaired,
    )


# A copy of the first version of each row, dated at the row's creation if that is earlier.
_DATE_BACK = """
    INSERT INTO {table}_history (valid_from, {names}, created_date, updated_at)
    SELECT dated, {names}, created, dated FROM (
        SELECT DISTINCT ON (h.id) h.*, coalesce(i.created_date, t.created_date) AS created,
               least(greatest(coalesce(i.created_date, t.created_date), %s), now()) AS dated
        FROM {table}_history h JOIN {table} t ON t.id = h.id JOIN imported i ON i.id = h.id
        ORDER BY h.id, h.valid_from, h.version
    ) AS earliest
    WHERE dated < valid_from
"""

_BY_INSTANT = """
    DO $$ DECLARE
        instant timestamptz;
        dated_from timestamptz := current_setting('ecommersss.dated_from');
    BEGIN
        FOR instant IN SELECT DISTINCT created_date FROM imported ORDER BY created_date LOOP
            -- Never in the future, whatever the file says.
            PERFORM set_config('ecommersss.clock', least(greatest(instant, dated_from), now())::text, true);
            {insert} WHERE created_date = instant ORDER BY id;
        END LOOP;
    END $$
"""
