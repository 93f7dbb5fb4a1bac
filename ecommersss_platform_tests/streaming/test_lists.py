"""What `is_blacklisted` answers, and which exemptions count."""

from __future__ import annotations

from datetime import timedelta

from ecommersss_platform_tests.support.shop import NOON
from streaming.lists import Exemption, UserLists

HOUR = timedelta(hours=1)


def test_a_block_entry_holds_until_it_expires() -> None:
    lists = UserLists()
    lists.add(1, "block", NOON)
    lists.add(2, "block")
    assert lists.is_blacklisted(1, NOON - HOUR)
    assert not lists.is_blacklisted(1, NOON)
    assert lists.is_blacklisted(2, NOON)
    assert not lists.is_blacklisted(3, NOON)


def test_an_allow_entry_wins_until_it_expires() -> None:
    lists = UserLists()
    lists.add(1, "block")
    lists.add(1, "allow", NOON)
    assert not lists.is_blacklisted(1, NOON - HOUR)
    assert lists.is_blacklisted(1, NOON)


def test_the_later_expiry_of_two_entries_wins() -> None:
    for expiries in ((NOON, NOON + HOUR), (NOON + HOUR, NOON), (NOON, None)):
        lists = UserLists()
        for expires_at in expiries:
            lists.add(1, "block", expires_at)
        assert lists.is_blacklisted(1, NOON)


def test_an_exemption_counts_for_its_rule_and_user_until_it_expires() -> None:
    lists = UserLists()
    abroad = Exemption("foreign_country", 1, "abroad until spring", "Sari", NOON)
    lists.exempt(abroad)
    assert lists.exemptions(1, NOON - HOUR) == {"foreign_country": abroad}
    assert lists.exemptions(1, NOON) == lists.exemptions(2, NOON - HOUR) == {}
    fraud, shadow = ["extreme_order", "foreign_country"], ["foreign_country"]
    lists.drop_exempted(2, NOON - HOUR, fraud, shadow)
    lists.drop_exempted(1, NOON, fraud, shadow)
    assert (fraud, shadow) == (["extreme_order", "foreign_country"], ["foreign_country"])
    lists.drop_exempted(1, NOON - HOUR, fraud, shadow)
    assert (fraud, shadow) == (["extreme_order"], [])
