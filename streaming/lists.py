"""Lists of users: `block` (their orders are suspect) and `allow` (never blocked, whatever else is said).

People write entries, and so does the platform after each day (source "platform": users whose status in
gold.users_and_blacklist is Blacklist). An allow entry always wins, so a person overrules the platform with
one. Entries are never changed: one is removed, and another added, so that what was known when an order was
decided can be told later.

`is_blacklisted` is point-in-time. What is known is the version of the lists that the consumer had taken up
when the order's turn came; it takes a change up with the next batch, and notes in `user_lists_used` from
which place in the topic on it decided with it. Whether a known entry has expired is asked for the instant at
which the order was *placed*, so that the answer does not depend on how late the order or the consumer was.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from streaming.business_days import JAKARTA
from streaming.database import connect
from streaming.errors import PlatformError

ListName = Literal["allow", "block"]
Source = Literal["person", "platform"]
LISTS: tuple[str, ...] = get_args(ListName)

_FOREVER = datetime.max.replace(tzinfo=UTC)
_KNOWN = """
    SELECT user_id, list, expires_at FROM user_lists
    WHERE added_version <= %(version)s AND (removed_version IS NULL OR removed_version > %(version)s)
"""
_ADD = """
    INSERT INTO user_lists (user_id, list, reason, source, expires_at) VALUES (%s, %s, %s, %s, %s)
"""
_REMOVE = """
    UPDATE user_lists SET removed_at = now()
    WHERE (user_id, list, source) = (%s, %s, %s) AND removed_at IS NULL
"""
_USED = """
    SELECT version FROM user_lists_used
    WHERE (topic, consumer) = (%s, %s) AND position <= %s ORDER BY position DESC LIMIT 1
"""


class UserLists:
    """The lists at one version, for the consumer: who is blocked and allowed, and until when."""

    __slots__ = ("_allowed", "_blocked", "version")

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._blocked: dict[int, datetime] = {}
        self._allowed: dict[int, datetime] = {}

    @classmethod
    def read(cls, cursor: Cursor, version: int) -> UserLists:
        """The lists as they were at a version, read from the database."""
        lists = cls(version)
        cursor.execute(_KNOWN, {"version": version})
        for user_id, name, expires_at in cursor:
            lists.add(user_id, name, expires_at)
        return lists

    def add(self, user_id: int, name: ListName, expires_at: datetime | None = None) -> None:
        """Count an entry. Of two for one user the one that lasts longer matters."""
        entries = self._blocked if name == "block" else self._allowed
        until = expires_at or _FOREVER
        entries[user_id] = max(until, entries.get(user_id, until))

    def is_blacklisted(self, user_id: int, placed: datetime) -> bool:
        """Whether an order placed at that instant comes from a user who is blocked and not allowed."""
        until = self._blocked.get(user_id)
        if until is None or placed >= until:
            return False
        allowed_until = self._allowed.get(user_id)
        return allowed_until is None or placed >= allowed_until


def version_used(cursor: Cursor, topic: str, consumer: str, position: int) -> int:
    """The version of the lists that a consumer decided with at a place in its topic."""
    cursor.execute(_USED, (topic, consumer, position))
    return int((cursor.fetchone() or (0,))[0])


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the lists; instants are aware, `removed_at` is None while it is in force."""

    user_id: int
    list: ListName
    reason: str
    source: Source
    added_at: datetime
    expires_at: datetime | None
    removed_at: datetime | None

    def as_row(self) -> dict[str, int | str | None]:
        """What people are shown: times in Asia/Jakarta."""
        return {
            "user_id": self.user_id,
            "list": self.list,
            "reason": self.reason,
            "source": self.source,
            "added_at": _shown_time(self.added_at),
            "expires_at": _shown_time(self.expires_at),
            "removed_at": _shown_time(self.removed_at),
        }


def entries(url: str, user_id: int | None = None, *, removed: bool = False) -> list[Entry]:
    """Entries of one user or of all, by user; with `removed` also those that were removed or replaced."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT user_id, list, reason, source, added_at, expires_at, removed_at FROM user_lists
            WHERE (%(user_id)s::int IS NULL OR user_id = %(user_id)s) AND (%(removed)s OR removed_at IS NULL)
            ORDER BY user_id, entry
            """,
            {"user_id": user_id, "removed": removed},
        )
        return [Entry(*row) for row in cursor]


def add_entry(
    url: str,
    user_id: int,
    name: ListName,
    reason: str,
    expires_at: datetime | None = None,
    source: Source = "person",
) -> bool:
    """Put a user on a list; an entry of that source that is there is replaced. Whether one was.

    Raises `PlatformError` when the user does not exist, the reason is empty or the expiry has passed.
    """
    if not reason.strip():
        raise PlatformError("an entry needs a reason: it is what is told to who asks why")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise PlatformError(f"the entry would have expired at {_shown_time(expires_at)}: choose a later time")
    try:
        with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(_REMOVE, (user_id, name, source))
            replaced = cursor.rowcount > 0
            cursor.execute(_ADD, (user_id, name, reason.strip(), source, expires_at))
    except errors.ForeignKeyViolation:
        raise PlatformError(f"there is no user {user_id}") from None
    return replaced


def remove_entry(url: str, user_id: int, name: ListName) -> list[Entry]:
    """Take a user off a list, whoever put them there, and return the entries that were removed.

    Raises `PlatformError` when the user is not on it.
    """
    found = [entry for entry in entries(url, user_id) if entry.list == name]
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        for entry in found:
            cursor.execute(_REMOVE, (user_id, name, entry.source))
    if not found:
        raise PlatformError(f"user {user_id} is not on the {name} list: `ecommersss lists show` has who is")
    return found


@dataclass(frozen=True, slots=True)
class Synchronised:
    """What became of the platform's own block entries."""

    added: int
    removed: int
    kept: int
    unknown: int
    """Users who are not in the operational database."""


def block_for_platform(connection: Connection, reasons: dict[int, str]) -> Synchronised:
    """Make the platform's block entries those of these users, in one transaction; twice changes nothing.

    `reasons` says for each user why. Entries by people are left alone. An entry whose user is there already
    stays as it is, with the reason of its day.
    """
    with connection, connection.cursor() as cursor:
        # One at a time, or two runs at once would both add a user.
        cursor.execute("SELECT FROM user_lists_version FOR UPDATE")
        cursor.execute(
            "SELECT user_id FROM user_lists"
            " WHERE list = 'block' AND source = 'platform' AND removed_at IS NULL"
        )
        there = {user_id for (user_id,) in cursor}
        cursor.execute("SELECT id FROM users WHERE id = ANY(%s::int[])", (list(reasons),))
        known = {user_id for (user_id,) in cursor}
        new, gone = sorted(known - there), sorted(there - reasons.keys())
        _change(cursor, gone, new, reasons)
        return Synchronised(len(new), len(gone), len(there) - len(gone), len(reasons) - len(known))


def _change(cursor: Cursor, gone: Collection[int], new: Collection[int], reasons: dict[int, str]) -> None:
    """Without changes nothing is written: the lists keep their version."""
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


def _shown_time(instant: datetime | None) -> str | None:
    return instant.astimezone(JAKARTA).isoformat(timespec="seconds") if instant else None
