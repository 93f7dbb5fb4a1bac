"""The rule books that decided about orders, kept in PostgreSQL for ever.

A book is written in the transaction of the first batch that it decides, so every stored order's book is kept.
The exceptions are orders that were decided before migration 0008, by a book that never decided again.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import cursor as Cursor

from streaming.database import connect
from streaming.errors import PlatformError
from streaming.rules import RuleBook

_KEEP = """
    INSERT INTO rule_books (version, text, first_position, first_used_at) VALUES (%s, %s, %s, %s)
    ON CONFLICT (version) DO NOTHING
"""
_TEXT = "SELECT text FROM rule_books WHERE version = %s"
# PostgreSQL reads a million orders in a fifth of a second; an index would make each of them dearer to store.
_LIST = """
    SELECT version, text, first_position, first_used_at, coalesce(decided.orders, 0)
    FROM rule_books FULL JOIN
        (SELECT rules_version AS version, count(*) AS orders FROM orders GROUP BY rules_version) AS decided
        USING (version)
    ORDER BY first_used_at NULLS FIRST, first_position, version
"""
_FIND = "SELECT version, text FROM rule_books WHERE starts_with(version, %s) ORDER BY version LIMIT 6"


@dataclass(frozen=True, slots=True)
class Decided:
    """A rule book that decided about orders. All but its version is unknown if it is not kept."""

    version: str
    text: str | None
    first_position: int | None
    """The position of the first order of the first batch that was committed with it."""
    first_used_at: datetime | None
    orders: int
    """The number of stored orders that it decided."""

    def parse(self) -> RuleBook | None:
        """Return the book; None if it is not kept. Raises as `kept_book` does."""
        return None if self.text is None else _parse(self.version, self.text)


def list_books(url: str) -> list[Decided]:
    """Return every book that decided, by its first use; those that are not kept come first."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_LIST)
        return [Decided(*row) for row in cursor]


def find_book(url: str, prefix: str) -> RuleBook:
    """Return the kept book whose version begins with `prefix`.

    Raises `PlatformError` unless there is exactly one, and as `kept_book` does.
    """
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_FIND, (prefix.lower(),))
        found = cursor.fetchall()
    which = f"a version that begins with {prefix!r}"
    if not found:
        raise PlatformError(f"no kept rule book has {which}: see `ecommersss rules books list`")
    if len(found) > 1:
        versions = ", ".join(version for version, _ in found)
        raise PlatformError(f"more than one kept rule book has {which}: {versions}. Type more of it.")
    return _parse(*found[0])


def keep_book(cursor: Cursor, book: RuleBook, position: int, used_at: datetime) -> None:
    """Keep the book that decided the order at `position`, unless it is kept already.

    Raises `PlatformError` if another text with the same version is kept.
    """
    cursor.execute(_KEEP, (book.version, book.text, position, used_at))
    if cursor.rowcount == 0 and _text(cursor, book.version) != book.text:
        raise PlatformError(
            f"the rule book {book.name} has the version {book.version}, which belongs to another text that"
            " decided about stored orders. Change the file, a comment is enough, and start again."
        )


def kept_book(cursor: Cursor, version: str) -> RuleBook | None:
    """Return the kept book with this version; None if it is not kept.

    Raises `PlatformError` if the text is not the one that decided, and `RuleError` if this version of the
    platform does not accept it.
    """
    text = _text(cursor, version)
    return None if text is None else _parse(version, text)


def _parse(version: str, text: str) -> RuleBook:
    book = RuleBook.parse(text, f"kept rule book {version}")
    if book.version != version:
        raise PlatformError(
            f"the text that is kept as rule book {version} has the version {book.version}: somebody changed"
            " the table rule_books by hand. Restore the row from a backup."
        )
    return book


def _text(cursor: Cursor, version: str) -> str | None:
    cursor.execute(_TEXT, (version,))
    row = cursor.fetchone()
    return row[0] if row else None
