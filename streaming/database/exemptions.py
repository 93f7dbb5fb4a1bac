"""The exemptions of users from rules in PostgreSQL: list, add and remove them.

An exemption never changes: it is removed, or replaced by another one. Each change makes a new version of the
user lists (`streaming.database.user_lists`), so the `lists_version` of an order tells which exemptions were
known when it was decided.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from streaming.business_days import local_time
from streaming.database import connect
from streaming.database.user_lists import lock_lists
from streaming.errors import PlatformError
from streaming.lists import Exemption

_LIST = """
    SELECT rule, user_id, reason, author, expires_at, added_at, removed_at FROM rule_exemptions
    WHERE (%(user_id)s::int IS NULL OR user_id = %(user_id)s) AND (%(removed)s OR removed_at IS NULL)
    ORDER BY user_id, exemption
"""
_ADD = "INSERT INTO rule_exemptions (rule, user_id, reason, author, expires_at) VALUES (%s, %s, %s, %s, %s)"
_REMOVE = """
    UPDATE rule_exemptions SET removed_at = now() WHERE (rule, user_id) = (%s, %s) AND removed_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class KeptExemption:
    """An exemption as it is kept. Instants are aware; `removed_at` is None unless it was removed."""

    exemption: Exemption
    added_at: datetime
    removed_at: datetime | None

    def as_row(self) -> dict[str, int | str | None]:
        """Return the exemption as a row for people, with times in Asia/Jakarta."""
        return {
            "rule": self.exemption.rule,
            "user_id": self.exemption.user_id,
            "reason": self.exemption.reason,
            "author": self.exemption.author,
            "added_at": local_time(self.added_at),
            "expires_at": local_time(self.exemption.expires_at),
            "removed_at": local_time(self.removed_at) if self.removed_at else None,
        }


def list_exemptions(url: str, user_id: int | None = None, *, removed: bool = False) -> list[KeptExemption]:
    """Return the exemptions of one user, or of all, by user; `removed` includes removed and replaced ones."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_LIST, {"user_id": user_id, "removed": removed})
        return [KeptExemption(Exemption(*row[:5]), *row[5:]) for row in cursor]


def add_exemption(url: str, exemption: Exemption) -> bool:
    """Exempt a user from a rule, replacing the earlier exemption. Return whether there was one.

    Raises `PlatformError` if the user does not exist, the reason or the author is empty, or the expiry has
    passed. Any rule name is accepted: only the caller knows the rule book.
    """
    reason, author = exemption.reason.strip(), exemption.author.strip()
    if not reason:
        raise PlatformError("an exemption needs a reason, for whoever asks later why the rule did not hold")
    if not author:
        raise PlatformError("an exemption needs an author, whom one can ask later")
    if exemption.expires_at <= datetime.now(UTC):
        expired = local_time(exemption.expires_at)
        raise PlatformError(f"the exemption would have expired at {expired}: choose a later time")
    row = (exemption.rule, exemption.user_id, reason, author, exemption.expires_at)
    try:
        with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
            lock_lists(cursor)
            replaced = _remove(cursor, exemption.rule, exemption.user_id)
            cursor.execute(_ADD, row)
    except errors.ForeignKeyViolation:
        raise PlatformError(f"there is no user {exemption.user_id}") from None
    return replaced


def remove_exemption(url: str, rule: str, user_id: int) -> None:
    """Remove a user's exemption from a rule. Raises `PlatformError` if there is none."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        lock_lists(cursor)
        removed = _remove(cursor, rule, user_id)
    if not removed:
        raise PlatformError(
            f"user {user_id} has no exemption from a rule {rule!r}: see `ecommersss rules exemptions list`"
        )


def _remove(cursor: Cursor, rule: str, user_id: int) -> bool:
    cursor.execute(_REMOVE, (rule, user_id))
    return cursor.rowcount > 0
