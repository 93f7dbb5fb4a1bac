"""The block and allow lists in PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from ecommersss_platform_tests.support.shop import NOON, execute, open_shop, query
from streaming.database import connect
from streaming.database.user_lists import (
    TURN_LOCK,
    Synchronised,
    add_entry,
    block_for_platform,
    list_entries,
    read_lists,
    remove_entry,
)
from streaming.errors import PlatformError

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)


@pytest.fixture
def url(database: str) -> str:
    open_shop(database)
    return database


def test_replaced_and_removed_entries_are_kept(url: str) -> None:
    until = datetime.now(UTC) + DAY
    assert not add_entry(url, 1, "block", "first")
    assert add_entry(url, 1, "block", " second ", until)
    add_entry(url, 2, "allow", "a friend")
    assert [(e.user_id, e.list, e.reason, e.source, e.expires_at) for e in list_entries(url)] == [
        (1, "block", "second", "person", until),
        (2, "allow", "a friend", "person", None),
    ]
    assert [e.reason for e in remove_entry(url, 1, "block")] == ["second"]
    assert list_entries(url, 1) == []
    assert [(e.reason, e.removed_at is None) for e in list_entries(url, 1, removed=True)] == [
        ("first", False),
        ("second", False),
    ]


def test_invalid_changes_of_the_lists_are_refused(url: str) -> None:
    with pytest.raises(PlatformError, match="there is no user 99"):
        add_entry(url, 99, "block", "x")
    with pytest.raises(PlatformError, match="needs a reason"):
        add_entry(url, 1, "block", "  ")
    with pytest.raises(PlatformError, match="would have expired at"):
        add_entry(url, 1, "block", "x", NOON)
    with pytest.raises(PlatformError, match="user 1 is not on the allow list"):
        remove_entry(url, 1, "allow")
    add_entry(url, 1, "block", "x")
    for statement in (
        "UPDATE user_lists SET reason = 'y'",
        "UPDATE user_lists SET removed_version = 1",
        "UPDATE user_lists SET removed_at = now(), reason = 'y'",
        "DELETE FROM user_lists",
    ):
        with pytest.raises(psycopg2.errors.RaiseException, match="never changed"):
            execute(url, statement)
    execute(url, "UPDATE user_lists SET removed_at = now()")
    with pytest.raises(psycopg2.errors.RaiseException, match="never changed"):
        execute(url, "UPDATE user_lists SET removed_at = NULL")


def test_the_platform_changes_only_its_own_entries(url: str) -> None:
    add_entry(url, 1, "block", "by hand")
    add_entry(url, 2, "allow", "known well")

    def synchronise(reasons: dict[int, str]) -> Synchronised:
        with closing(connect(url)) as connection:
            return block_for_platform(connection, reasons)

    [(before,)] = query(url, "SELECT version FROM user_lists_version")
    assert synchronise({1: "3 fraud orders", 2: "4 fraud orders", 99: "unknown"}) == Synchronised(2, 0, 0, 1)
    assert query(url, "SELECT version FROM user_lists_version") == [(before + 1,)]
    assert synchronise({2: "5 fraud orders", 1: "3 fraud orders"}) == Synchronised(0, 0, 2, 0)
    assert query(url, "SELECT version FROM user_lists_version") == [(before + 1,)], "nothing was written"
    assert synchronise({2: "4 fraud orders"}) == Synchronised(0, 1, 1, 0)
    assert [(e.user_id, e.list, e.reason, e.source) for e in list_entries(url)] == [
        (1, "block", "by hand", "person"),
        (2, "allow", "known well", "person"),
        (2, "block", "4 fraud orders", "platform"),
    ]
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        lists = read_lists(cursor, 10**9)
    assert (lists.is_blacklisted(1, NOON), lists.is_blacklisted(2, NOON)) == (True, False)


def test_changes_at_once_wait_for_each_other(url: str) -> None:
    def synchronise() -> object:
        with closing(connect(url)) as connection:
            return block_for_platform(connection, {1: "3 fraud orders", 2: "4 fraud orders"})

    def at_once(*changes: Callable[[], object]) -> list[object]:
        """Hold the lists until every change waits, then let all of them go."""
        with closing(connect(url)) as holder, ThreadPoolExecutor(len(changes)) as pool:
            with holder.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (TURN_LOCK,))
            running = [pool.submit(change) for change in changes]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            deadline = time.monotonic() + 20
            while query(url, waiting) != [(len(changes),)]:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            holder.rollback()
            return [change.result(timeout=20) for change in running]

    def add() -> bool:
        return add_entry(url, 1, "block", "chargebacks")

    assert sorted(map(bool, at_once(add, add))) == [False, True], "the second replaced the first"
    at_once(add, synchronise, synchronise, add)
    entries = sorted((e.user_id, e.source) for e in list_entries(url))
    assert entries == [(1, "person"), (1, "platform"), (2, "platform")]
    with pytest.raises(PlatformError, match="not on the block list"):
        at_once(lambda: remove_entry(url, 1, "block"), lambda: remove_entry(url, 1, "block"))
