"""The difference between two rule books."""

from __future__ import annotations

from ecommersss_platform_tests.support.rules import book
from streaming.rules.diff import compare


def test_rules_are_compared_by_name_in_the_order_of_the_new_book() -> None:
    same = ("same", "active", "quantity > 2")
    old = book(("gone", "off", "quantity > 1"), same, ("a", "shadow", "quantity > 3"))
    new = book(("b", "active", "quantity > 9"), ("a", "active", "quantity > 4"), same)
    changes = compare(old, new)
    assert [(c.kind, c.rule) for c in changes] == [("added", "b"), ("changed", "a"), ("removed", "gone")]
    assert changes[1].fields == ["mode", "when"]


def test_order_and_layout_are_no_change() -> None:
    rules = (("a", "active", "quantity > 1"), ("b", "shadow", "quantity > 2"))
    assert compare(book(*rules), book(*reversed(rules))) == []
