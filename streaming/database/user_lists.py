"""The block and allow lists in PostgreSQL: list, add and remove entries, and read the lists at a version.

A version has the exemptions from rules too; `streaming.database.exemptions` changes those.

People write entries, and so does the platform after each day (source "platform": users whose status in
gold.users_and_blacklist is Blacklist). Since an allow entry always wins, a person overrules the platform with
one.

Entries never change: one is removed and another added, and each change makes a new version of the lists. So
it stays known what the lists were when an order was decided: the order has the version, `lists_version`.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from streaming.business_days import local_time
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.lists import Exemption, ListName, UserLists

Source = Literal["person", "platform"]

TURN_LOCK: Final = 6_203_542
"""The lock under which the lists change: an arbitrary number, the same everywhere and in migration 0003."""

_AT_VERSION = "added_version <= %(version)s AND (removed_version IS NULL OR removed_version > %(version)s)"
_KNOWN = f"SELECT user_id, list, expires_at FROM user_lists WHERE {_AT_VERSION}"  # noqa: S608
_EXEMPT = f"SELECT rule, user_id, reason, author, expires_at FROM rule_exemptions WHERE {_AT_VERSION}"  # noqa: S608
_ADD = """
    INSERT INTO user_lists (user_id, list, reason, source, expires_at) VALUES (%s, %s, %s, %s, %s)
"""
_REMOVE = """
    UPDATE user_lists SET removed_at = now()
    WHERE (user_id, list, source) = (%s, %s, %s) AND removed_at IS NULL
"""


def read_lists(cursor: Cursor, version: int) -> UserLists:
    """Return the lists and the exemptions as they were at a version."""
    lists = UserLists(version)
    cursor.execute(_KNOWN, {"version": version})
    for user_id, name, expires_at in cursor:
        lists.add(user_id, name, expires_at)
    cursor.execute(_EXEMPT, {"version": version})
    for row in cursor:
        lists.exempt(Exemption(*row))
    return lists


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a list. Instants are aware; `removed_at` is None while the entry is in force."""

    user_id: int
    list: ListName
    reason: str
    source: Source
    added_at: datetime
    expires_at: datetime | None
    removed_at: datetime | None

    def as_row(self) -> dict[str, int | str | None]:
        """Return the entry as a row for people, with times in Asia/Jakarta."""
        return {
            "user_id": self.user_id,
            "list": self.list,
            "reason": self.reason,
            "source": self.source,
            "added_at": local_time(self.added_at),
            "expires_at": local_time(self.expires_at) if self.expires_at else None,
            "removed_at": local_time(self.removed_at) if self.removed_at else None,
        }


def list_entries(url: str, user_id: int | None = None, *, removed: bool = False) -> list[Entry]:
    """Return the entries of one user, or of all, by user; `removed` includes removed and replaced ones."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        return _entries(cursor, user_id, removed=removed)


def _entries(cursor: Cursor, user_id: int | None, *, removed: bool = False) -> list[Entry]:
    cursor.execute(
        """
        SELECT user_id, list, reason, source, added_at, expires_at, removed_at FROM user_lists
        WHERE (%(user_id)s::int IS NULL OR user_id = %(user_id)s) AND (%(removed)s OR removed_at IS NULL)
        ORDER BY user_id, entry
        """,
        {"user_id": user_id, "removed": removed},
    )
    return [Entry(*row) for row in cursor]


def lock_lists(cursor: Cursor) -> None:
    """Wait for every other change of the lists and exemptions; the lock ends with the transaction.

    Take it before anything else: the triggers take it too, but only after a statement chose its rows. Two
    changes would then meet in the same entry, or hold each other up.
    """
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", (TURN_LOCK,))


def add_entry(
    url: str,
    user_id: int,
    name: ListName,
    reason: str,
    expires_at: datetime | None = None,
    source: Source = "person",
) -> bool:
    """Put a user on a list, replacing an entry of the same source. Return whether there was one.

    Raises `PlatformError` if the user does not exist, the reason is empty or the expiry has passed.
    """
    if not reason.strip():
        raise PlatformError("an entry needs a reason, for whoever asks later why the user is listed")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise PlatformError(f"the entry would have expired at {local_time(expires_at)}: choose a later time")
    try:
        with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
            lock_lists(cursor)
            return replace_entry(cursor, user_id, name, reason.strip(), expires_at, source)
    except errors.ForeignKeyViolation:
        raise PlatformError(f"there is no user {user_id}") from None


def replace_entry(
    cursor: Cursor,
    user_id: int,
    name: ListName,
    reason: str,
    expires_at: datetime | None = None,
    source: Source = "person",
) -> bool:
    """Do what `add_entry` does, in a transaction that began with `lock_lists`."""
    cursor.execute(_REMOVE, (user_id, name, source))
    replaced = cursor.rowcount > 0
    cursor.execute(_ADD, (user_id, name, reason, source, expires_at))
    return replaced


def remove_entry(url: str, user_id: int, name: ListName) -> list[Entry]:
    """Take a user off a list, whoever wrote the entries, and return those that were removed.

    Raises `PlatformError` if the user is not on the list.
    """
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        lock_lists(cursor)
        found = [entry for entry in _entries(cursor, user_id) if entry.list == name]
        for entry in found:
            cursor.execute(_REMOVE, (user_id, name, entry.source))
    if not found:
        raise PlatformError(f"user {user_id} is not on the {name} list: see `ecommersss lists show`")
    return found


@dataclass(frozen=True, slots=True)
class Synchronised:
    """How many of the platform's own block entries were added, removed and kept."""

    added: int
    removed: int
    kept: int
    unknown: int
    """How many users the operational database does not have."""


def block_for_platform(connection: Connection, reasons: dict[int, str]) -> Synchronised:
    """Make these users the platform's block entries, in one transaction. Running it twice changes nothing.

    `reasons` maps each user to the reason. Entries by people stay as they are. So does the platform's entry
    of a user who is blocked already, with the reason it had then.
    """
    with connection, connection.cursor() as cursor:
        lock_lists(cursor)
        cursor.execute(
            "SELECT user_id FROM user_lists"
            " WHERE list = 'block' AND source = 'platform' AND removed_at IS NULL"
        )
        blocked = {user_id for (user_id,) in cursor}
        cursor.execute("SELECT id FROM users WHERE id = ANY(%s::int[])", (list(reasons),))
        known = {user_id for (user_id,) in cursor}
        new, gone = sorted(known - blocked), sorted(blocked - reasons.keys())
        _change_platform_blocks(cursor, gone, new, reasons)
        return Synchronised(len(new), len(gone), len(blocked) - len(gone), len(reasons) - len(known))


def _change_platform_blocks(
    cursor: Cursor, gone: Collection[int], new: Collection[int], reasons: dict[int, str]
) -> None:
    """Write only if something changes: a write makes a new version of the lists."""
    if gone:
        cursor.execute(
            "UPDATE user_lists SET removed_at = now() WHERE user_id = ANY(%s::int[])"
            " AND list = 'block' AND source = 'platform' AND removed_at IS NULL",
            (list(gone),),
        )
    if new:
        cursor.execute(
            "INSERT INTO user_lists (user_id, list, reason, source)"
            " SELECT u, 'block', r, 'platform' FROM unnest(%s::int[], %s::text[]) AS new(u, r)",
            (list(new), [reasons[user_id] for user_id in new]),
        )
