"""The rule books that decided about orders, kept in PostgreSQL for ever.

A book is written in the transaction of the first batch that it decides, so every stored order's book is kept.
The exceptions are orders that were decided before migration 0008, by a book that never decided again.
"""

from __future__ import annotations

from datetime import datetime

from psycopg2.extensions import cursor as Cursor

from streaming.errors import PlatformError
from streaming.rules import RuleBook

_KEEP = """
    INSERT INTO rule_books (version, text, first_position, first_used_at) VALUES (%s, %s, %s, %s)
    ON CONFLICT (version) DO NOTHING
"""
_TEXT = "SELECT text FROM rule_books WHERE version = %s"


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
    if text is None:
        return None
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
