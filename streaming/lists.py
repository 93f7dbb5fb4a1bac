"""The block list and the allow list of users, as a rule sees them, and the exemptions of users from rules.

A user's orders are suspect while the user is on the block list, unless the user is also on the allow list: an
allow entry always wins. People write entries, and so does the platform; `streaming.database.user_lists`
stores them.

An exemption says that a rule does not hold for a user until a time. People write exemptions;
`streaming.database.exemptions` stores them.

Both are point-in-time in two ways. The version of the lists is the one that the consumer knew when it
decided. Whether a known entry has expired depends on when the order was *placed*, so the answer does not
depend on how late the order or the consumer was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

ListName = Literal["allow", "block"]
LISTS: tuple[str, ...] = get_args(ListName)

_FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Exemption:
    """A rule that does not hold for a user's orders that are placed before `expires_at` (aware)."""

    rule: str
    user_id: int
    reason: str
    author: str
    expires_at: datetime


class UserLists:
    """One version of both lists and of the exemptions: who is blocked, allowed or exempt, and until when."""

    __slots__ = ("_allowed", "_blocked", "_exemptions", "version")

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self._blocked: dict[int, datetime] = {}
        self._allowed: dict[int, datetime] = {}
        self._exemptions: dict[int, dict[str, Exemption]] = {}

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

    def exempt(self, exemption: Exemption) -> None:
        """Add an exemption. A version has at most one of a user and a rule."""
        self._exemptions.setdefault(exemption.user_id, {})[exemption.rule] = exemption

    @property
    def exempt_users(self) -> Collection[int]:
        """The users with any exemption, expired or not."""
        return self._exemptions.keys()

    def exemptions(self, user_id: int, placed: datetime) -> dict[str, Exemption]:
        """Return the exemptions that count for an order of this user placed at that instant, by rule."""
        entries = self._exemptions.get(user_id, {})
        return {rule: entry for rule, entry in entries.items() if placed < entry.expires_at}

    def drop_exempted(self, user_id: int, placed: datetime, *reasons: list[str]) -> None:
        """Remove the rules that do not hold for an order of this user from lists of rules, in place."""
        if exempted := self.exemptions(user_id, placed):
            for names in reasons:
                names[:] = [name for name in names if name not in exempted]
