"""The exemptions from rules in PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from ecommersss_platform_tests.support.shop import NOON, execute, open_shop, query
from streaming.database import connect
from streaming.database.exemptions import add_exemption, list_exemptions, remove_exemption
from streaming.database.user_lists import add_entry, read_lists
from streaming.errors import PlatformError
from streaming.lists import Exemption

pytestmark = pytest.mark.integration

UNTIL = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
ABROAD = Exemption("foreign_country", 1, "abroad", "Sari", UNTIL)


@pytest.fixture
def url(database: str) -> str:
    open_shop(database)
    return database


def test_replaced_and_removed_exemptions_are_kept(url: str) -> None:
    assert not add_exemption(url, ABROAD)
    longer = replace(ABROAD, reason="abroad for longer", expires_at=UNTIL + timedelta(days=1))
    assert add_exemption(url, replace(longer, reason=" abroad for longer ", author=" Sari "))
    other_rule, other_user = replace(ABROAD, rule="wallet_limit"), replace(ABROAD, user_id=2)
    assert not add_exemption(url, other_rule)
    assert not add_exemption(url, other_user)
    assert [kept.exemption for kept in list_exemptions(url)] == [longer, other_rule, other_user]
    remove_exemption(url, "foreign_country", 1)
    assert [kept.exemption for kept in list_exemptions(url, 1)] == [other_rule]
    assert [(k.exemption, k.removed_at is None) for k in list_exemptions(url, 1, removed=True)] == [
        (ABROAD, False),
        (longer, False),
        (other_rule, True),
    ]


def test_invalid_changes_of_exemptions_are_refused(url: str) -> None:
    for exemption, problem in (
        (replace(ABROAD, user_id=99), "there is no user 99"),
        (replace(ABROAD, reason=" "), "needs a reason"),
        (replace(ABROAD, author=" "), "needs an author"),
        (replace(ABROAD, expires_at=NOON), "would have expired at 2026-03-02T12:00:00"),
    ):
        with pytest.raises(PlatformError, match=problem):
            add_exemption(url, exemption)
    with pytest.raises(PlatformError, match="user 1 has no exemption from a rule 'foreign_country'"):
        remove_exemption(url, "foreign_country", 1)
    add_exemption(url, ABROAD)
    for statement in (
        "UPDATE rule_exemptions SET reason = 'y'",
        "UPDATE rule_exemptions SET removed_version = 1",
        "UPDATE rule_exemptions SET removed_at = now(), expires_at = now()",
        "DELETE FROM rule_exemptions",
    ):
        with pytest.raises(psycopg2.errors.RaiseException, match="of rule_exemptions are never") as refused:
            execute(url, statement)
        assert "ecommersss rules exempt " in str(refused.value)
    remove_exemption(url, "foreign_country", 1)
    with pytest.raises(psycopg2.errors.RaiseException, match="never changed"):
        execute(url, "UPDATE rule_exemptions SET removed_at = NULL")


def test_every_version_of_the_lists_has_the_exemptions_of_then(url: str) -> None:
    """Also when an exemption is replaced, which is two changes in one transaction."""
    longer = replace(ABROAD, expires_at=UNTIL + timedelta(days=1))
    before = UNTIL - timedelta(hours=1)
    known: dict[int, tuple[dict[str, Exemption], bool]] = {}

    def note(exemptions: dict[str, Exemption], blocked: bool) -> None:
        [(version,)] = query(url, "SELECT version FROM user_lists_version")
        assert version not in known, "each change is a new version"
        known[version] = exemptions, blocked

    note({}, False)
    add_exemption(url, ABROAD)
    note({"foreign_country": ABROAD}, False)
    add_entry(url, 1, "block", "chargebacks")
    note({"foreign_country": ABROAD}, True)
    add_exemption(url, longer)
    note({"foreign_country": longer}, True)
    remove_exemption(url, "foreign_country", 1)
    note({}, True)
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for version, (exemptions, blocked) in known.items():
            lists = read_lists(cursor, version)
            assert (lists.exemptions(1, before), lists.is_blacklisted(1, before)) == (exemptions, blocked)
            assert lists.exemptions(2, before) == {}
