"""Users and products from a file into PostgreSQL: CSV or JSONL, inserted or updated, all or nothing."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from streaming.business_days import EARLIEST, JAKARTA, LATEST
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.orders import MAX_REFERENCE

MAX_TEXT = 1_000
"""Longest name, address or category, in characters."""
MAX_PRICE = Decimal("9999999999999999.99")
"""Largest price in rupiah: it is NUMERIC(18, 2) in the database."""

_PROBLEMS_KEPT = 20
_ROWS_A_PAGE = 1_000
_CENT = Decimal("0.01")
_PRICE = re.compile(r"([0-9]{1,16}|[0-9]{1,3}(,[0-9]{3}){1,5})(\.[0-9]{1,2})?", re.ASCII)


class InvalidFile(PlatformError):
    """A file that cannot be imported: nothing of it was. `problems` are its first wrong lines, in words."""

    def __init__(self, path: Path, problems: list[str], more: bool = False) -> None:
        self.problems = problems
        listed = "\n".join(f"  {problem}" for problem in problems)
        rest = "\n  ... and more" if more else ""
        super().__init__(f"nothing was imported from {path}; correct the file and try again:\n{listed}{rest}")


@dataclass(frozen=True)
class Imported:
    """What came of a file's rows."""

    inserted: int
    updated: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.inserted:,} inserted, {self.updated:,} updated, {self.unchanged:,} unchanged"


def import_file(
    url: str, entity: str, path: Path, *, backdate: bool = False, not_before: date | None = None
) -> Imported:
    """Insert or update users or products (`entity`: "users" or "products") from a file.

    The file is CSV with a header, or JSONL with one object a line, by its name (.csv; .jsonl or .ndjson), in
    UTF-8. Its columns are the table's, without updated_at. created_date (RFC 3339; without an offset it is
    Jakarta time) and default_payment may be left out: a new row was then created now, and a row that exists
    keeps what it has. A row that changes nothing is no new version. Prices may have commas between thousands.

    Versions are dated now. With `backdate`, the version of a row that is *new* is dated at its
    created_date, for loading history; days that are closed then change, so materialise them again. Nothing
    is dated before the business day `not_before`: there are no partitions before the first.

    Raises `InvalidFile` naming every wrong line (the first 20), and `PlatformError` for a file that cannot be
    read or an entity that is not known; nothing is imported then.
    """
    shape = _SHAPES.get(entity)
    if shape is None:
        raise PlatformError(f"only {' and '.join(_SHAPES)} can be imported, not {entity!r}")
    rows = _rows(path, shape)
    with closing(connect(url, "ecommersss import")) as connection, connection, connection.cursor() as cursor:
        if backdate:
            earliest = datetime.combine(not_before, time.min, JAKARTA) if not_before else EARLIEST
            return _upsert(cursor, shape, rows, dated_from=earliest)
        return _upsert(cursor, shape, rows)


class _Wrong(ValueError):
    """A value that breaks a rule; the text says which."""


def _id(value: object) -> int:
    text = _plain(value)
    if (
        text is not None
        and len(text) <= 10
        and text.isascii()
        and text.isdigit()
        and 1 <= int(text) <= MAX_REFERENCE
    ):
        return int(text)
    raise _Wrong(f"must be an integer from 1 to {MAX_REFERENCE}, not {_shown(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong("must be text, and not empty")
    if len(value) > MAX_TEXT:
        raise _Wrong(f"must be at most {MAX_TEXT} characters long, not {len(value)}")
    for index, character in enumerate(value):
        # What PostgreSQL cannot hold.
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise _Wrong(f"holds the character U+{ord(character):04X} at {index}, which cannot be stored")
    return value.strip()


def _email(value: object) -> str:
    text = _text(value)
    # The address itself is personal data and stays out of messages.
    if text.count("@") != 1 or text.startswith("@") or text.endswith("@"):
        raise _Wrong("must be an address like name@domain")
    return text


def _price(value: object) -> Decimal:
    text = _plain(value)
    # A third place is refused, also a zero, and so is a lone comma: "125.000" and "1,5" mean different things
    # in Jakarta and in a spreadsheet.
    if text is not None and _PRICE.fullmatch(text):
        price = Decimal(text.replace(",", "")).quantize(_CENT)
        if price <= MAX_PRICE:
            return price
    raise _Wrong(f"must be rupiah from 0 to {MAX_PRICE}, like 125000 or 125000.50, not {_shown(value)}")


def _instant(value: object) -> datetime:
    try:
        instant = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        instant = None
    if instant is not None:
        instant = instant if instant.tzinfo else instant.replace(tzinfo=JAKARTA)
        if EARLIEST <= instant < LATEST:
            return instant
    raise _Wrong(
        f"must be a time like 2025-06-01T10:30:00+07:00 from {EARLIEST.year} on, not {_shown(value)}"
    )


@dataclass(frozen=True)
class _Shape:
    """A table that can be imported: its columns, and how each value is read."""

    table: str
    required: Mapping[str, Callable[[object], Any]]
    optional: Mapping[str, Callable[[object], Any]]

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


_SHAPES = {
    "users": _Shape(
        "users",
        {"id": _id, "username": _text, "email": _email, "first_name": _text, "last_name": _text},
        {"default_payment": _text, "created_date": _instant},
    ),
    "products": _Shape(
        "products",
        {"id": _id, "product_name": _text, "category": _text, "price": _price},
        {"created_date": _instant},
    ),
}


def _rows(path: Path, shape: _Shape) -> list[tuple[Any, ...]]:
    """The file's rows, in the shape's order of columns. Raises `InvalidFile` and `PlatformError`."""
    readers = {".csv": _csv_lines, ".jsonl": _json_lines, ".ndjson": _json_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise PlatformError(f"cannot tell what {path} holds: name it .csv or .jsonl")
    rows: list[tuple[Any, ...]] = []
    first_seen: dict[int, int] = {}
    problems: list[str] = []
    try:
        for number, fields in reader(path, shape):
            if len(problems) > _PROBLEMS_KEPT:
                break
            row, found = ((), [fields]) if isinstance(fields, str) else _read(fields, shape)
            if not found and row[0] in first_seen:
                found = [f"id {row[0]} is in line {first_seen[row[0]]} already"]
            if not found:
                first_seen[row[0]] = number
                rows.append(row)
            problems += [f"line {number}: {problem}" for problem in found]
    except OSError as error:
        raise PlatformError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        problems.append(f"the file is not UTF-8 ({error.reason} near byte {error.start}); save it as UTF-8")
    except csv.Error as error:
        problems.append(f"no CSV: {error}")
    if problems:
        raise InvalidFile(path, problems[:_PROBLEMS_KEPT], more=len(problems) > _PROBLEMS_KEPT)
    return rows


def _read(fields: Mapping[str, object], shape: _Shape) -> tuple[tuple[Any, ...], list[str]]:
    """The values of a line, in the shape's order, and what is wrong with them; if anything is, use none."""
    problems = [
        f"unknown column {_shown(name)}; {shape.table} have {', '.join(shape.columns)}"
        for name in fields
        if name not in shape.columns
    ]
    values: list[Any] = []
    for name in shape.columns:
        value = fields.get(name)
        if value is None or value == "":
            if name in shape.required:
                problems.append(f"{name} is missing")
            values.append(None)
            continue
        try:
            values.append((shape.required.get(name) or shape.optional[name])(value))
        except _Wrong as error:
            problems.append(f"{name} {error}")
    return tuple(values), problems


def _csv_lines(path: Path, shape: _Shape) -> Iterator[tuple[int, dict[str, object] | str]]:
    # A spreadsheet's CSV begins with a byte order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = [name.strip() for name in next(reader, [])]
        wrong = _header_problem(header, shape)
        if wrong:
            yield 1, wrong
            return
        before = reader.line_num
        for values in reader:
            number, before = before + 1, reader.line_num
            if not values:
                continue
            if len(values) != len(header):
                yield number, f"has {len(values)} values, and the header has {len(header)} columns"
                continue
            yield number, dict(zip(header, values, strict=True))


def _header_problem(header: list[str], shape: _Shape) -> str | None:
    if not header:
        return f"the file is empty; it needs a header with {', '.join(shape.columns)}"
    for name in header:
        if name not in shape.columns:
            return f"unknown column {_shown(name)}; {shape.table} have {', '.join(shape.columns)}"
        if header.count(name) > 1:
            return f"the column {name} is there twice"
    missing = [name for name in shape.required if name not in header]
    return f"the header has no {', '.join(missing)}" if missing else None


def _json_lines(path: Path, shape: _Shape) -> Iterator[tuple[int, dict[str, object] | str]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                # Numbers as they are written: a price must not go through a binary fraction.
                fields = json.loads(line, parse_int=_Number, parse_float=_Number)
            except (ValueError, RecursionError) as error:
                position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
                yield number, f"is no JSON{position}"
                continue
            yield number, fields if isinstance(fields, dict) else "is JSON, but not an object"


class _Number(str):
    """A JSON number, as it is written."""

    __slots__ = ()


def _plain(value: object) -> str | None:
    return value.strip() if isinstance(value, str) else None


def _shown(value: object) -> str:
    """A value for a message, cut short."""
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:60]}... ({len(str(value))} characters)"


def _upsert(
    cursor: Cursor, shape: _Shape, rows: list[tuple[Any, ...]], dated_from: datetime | None = None
) -> Imported:
    # Names of tables and columns are our own, not the file's: unknown ones were refused.
    table, columns = shape.table, ", ".join(shape.columns)
    # Nobody else writes the table meanwhile; orders that refer to its rows are stored all the same.
    cursor.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
    like = f"SELECT {columns} FROM {table} WITH NO DATA"  # noqa: S608
    cursor.execute(f"CREATE TEMPORARY TABLE imported ON COMMIT DROP AS {like}")
    execute_values(cursor, f"INSERT INTO imported ({columns}) VALUES %s", rows, page_size=_ROWS_A_PAGE)  # noqa: S608
    cursor.execute("CREATE INDEX ON imported (id)")
    cursor.execute("CREATE INDEX ON imported (created_date)")
    cursor.execute("ANALYZE imported")

    # First what exists, as of now; what changes nothing is stopped by the trigger and not returned.
    assignments = ", ".join(
        f"{name} = coalesce(i.{name}, t.{name})" for name in shape.columns if name != "id"
    )
    cursor.execute(
        f"UPDATE {table} t SET {assignments} FROM imported i WHERE t.id = i.id"  # noqa: S608
    )
    updated = cursor.rowcount
    cursor.execute(f"DELETE FROM imported i USING {table} t WHERE t.id = i.id")  # noqa: S608
    existing = cursor.rowcount

    cursor.execute("UPDATE imported SET created_date = now() WHERE created_date IS NULL")
    insert = f"INSERT INTO {table} ({columns}) SELECT {columns} FROM imported"  # noqa: S608
    if dated_from is None:
        cursor.execute(f"{insert} ORDER BY id")
    else:
        # In the server, instant by instant: the trigger dates each row by the clock of this transaction.
        cursor.execute("SELECT set_config('ecommersss.dated_from', %s, true)", [dated_from.isoformat()])
        cursor.execute(_BY_INSTANT.format(insert=insert))
    return Imported(inserted=len(rows) - existing, updated=updated, unchanged=existing - updated)


_BY_INSTANT = """
    DO $$ DECLARE
        instant timestamptz;
        dated_from timestamptz := current_setting('ecommersss.dated_from');
    BEGIN
        FOR instant IN SELECT DISTINCT created_date FROM imported ORDER BY created_date LOOP
            -- Not in the future either, whatever the file says.
            PERFORM set_config('ecommersss.clock', least(greatest(instant, dated_from), now())::text, true);
            {insert} WHERE created_date = instant ORDER BY id;
        END LOOP;
    END $$
"""
