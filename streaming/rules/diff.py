"""The difference between two rule books, rule by rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from streaming.rules.book import PROMOTION_KEYS, Rule, RuleBook

FIELDS: Final = ("mode", "when", "description", *PROMOTION_KEYS)
"""What may differ between two rules of one name."""


@dataclass(frozen=True, slots=True)
class Change:
    """A rule that differs between two books: as it was (None: it was added) and as it is (None: removed)."""

    rule: str
    before: Rule | None
    after: Rule | None

    @property
    def kind(self) -> Literal["added", "removed", "changed"]:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    @property
    def fields(self) -> list[str]:
        """The fields of a changed rule that differ."""
        return [name for name in FIELDS if getattr(self.before, name) != getattr(self.after, name)]


def compare(before: RuleBook, after: RuleBook) -> list[Change]:
    """Return the rules that differ, in the order of `after`, then those that were removed.

    A rule is recognised by its name, so a renamed one was removed and added. Order, comments and layout do
    not count.
    """
    old, new = ({rule.name: rule for rule in book.rules} for book in (before, after))
    pairs = [(name, old.get(name), new.get(name)) for name in (new | old)]
    changes = [Change(*pair) for pair in pairs]
    return [change for change in changes if change.kind != "changed" or change.fields]
