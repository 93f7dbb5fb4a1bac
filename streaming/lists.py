"""The block list and the allow list of users, as a rule sees them: `is_blacklisted`.

A user's orders are suspect while the user is on the block list, unless the user is also on the allow list: an
allow entry always wins. People write entries, and so does the platform; `streaming.database.user_lists`
stores them.

`is_blacklisted` is point-in-time in two ways. The version of the lists is the one that the consumer knew when
it decided. Whether a known entry has expired depends on when the order was *placed*, so the answer does not
depend on how late the order or the consumer was.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, get_args

ListName = Literal["allow", "block"]
LISTS: tuple[str, ...] = get_args(ListName)

_FOREVER = datetime.max.replace(tzinfo=UTC)


class UserLists:
    """One version of both lists: who is blocked or allowed, and until when."""

    __slots__ = ("_allowed", "_blocked", "version")

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._blocked: dict[int, datetime] = {}
        self._allowed: dict[int, datetime] = {}

    def add(self, user_id: int, name: ListName, expires_at: datetime | None = None) -> None:
        """Add an entry. If a user has two entries on a list, the later expiry wins."""
        entries = self._blocked if name == "block" else self._allowed
        until = expires_at or _FOREVER
        entries[user_id] = max(until, entries.get(user_id, until))

    def is_blacklisted(self, user_id: int, placed: datetime) -> bool:
        """Return whether an order placed at that instant is by a user who is blocked and not allowed."""
        until = self._blocked.get(user_id)
        if until is None or placed >= until:
            return False
        allowed_until = self._allowed.get(user_id)
        return allowed_until is None or placed >= allowed_until
