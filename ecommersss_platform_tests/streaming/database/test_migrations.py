"""Migrations that can be undone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform_tests.support.migrations import downgrade
from ecommersss_platform_tests.support.shop import execute, open_shop, query
from streaming.database import migrate
from streaming.database.exemptions import add_exemption, remove_exemption
from streaming.database.user_lists import add_entry, remove_entry
from streaming.lists import Exemption
from streaming.roles import Role

pytestmark = pytest.mark.integration

OLD_ORDERS = """
    INSERT INTO orders
    SELECT n, 1, 1, 1, 1000, 'OVO', 'ID', false, '{}', '{}', 'book', now(), now(), 100 * n
    FROM generate_series(1, 5) n
"""
"""Orders of an earlier schema, at positions 100 to 500."""


def test_versions_of_lists_move_into_the_orders_and_back(database: str, postgres: EmbeddedPostgres) -> None:
    downgrade(database, "0007")
    open_shop(database)
    execute(database, OLD_ORDERS)
    used = [("orders", "fraud", 200, 3), ("orders", "fraud", 400, 5)]
    insert = "INSERT INTO user_lists_used VALUES (%s, %s, %s, %s)"
    for row in (*used, ("orders", "another", 300, 4)):
        execute(database, insert, row)
    migrate(database)
    versions = "SELECT array_agg(lists_version ORDER BY id) FROM orders"
    assert query(database, versions) == [([0, 3, 3, 5, 5],)]
    assert query(database, "SELECT to_regclass('user_lists_used')") == [(None,)]
    assert query(database, "SELECT DISTINCT recorded_at FROM users_history") == [(None,)]
    with pytest.raises(psycopg2.errors.NotNullViolation):
        execute(
            database,
            "INSERT INTO orders SELECT 6, 1, 1, 1, 1, 'OVO', 'ID', false, '{}', '{}', 'b', now(), now(), 600",
        )
    consumer = postgres.url(database.rpartition("/")[2], Role.CONSUMER)
    execute(consumer, "INSERT INTO rule_books VALUES ('v', 'text', 600, now())")
    downgrade(database, "0007")
    assert query(database, "SELECT * FROM user_lists_used ORDER BY position") == used
    assert query(database, "SELECT to_regclass('rule_books'), count(*) FROM orders") == [(None, 5)]
    migrate(database)
    assert query(database, versions) == [([0, 3, 3, 5, 5],)]


def test_books_get_numbers_and_the_lists_events(database: str, postgres: EmbeddedPostgres) -> None:
    downgrade(database, "0008")
    open_shop(database)
    execute(database, "INSERT INTO rule_books SELECT 'v' || n, 'text', n, now() FROM generate_series(1, 3) n")
    add_entry(database, 1, "block", "chargebacks")
    migrate(database)
    assert query(database, "SELECT array_agg(number ORDER BY version) FROM rule_books") == [([1, 2, 3],)]
    remove_entry(database, 1, "block")
    reader = postgres.url(database.rpartition("/")[2], Role.READER)
    events = "SELECT event_id, event, user_id, list, reason FROM user_list_events ORDER BY lists_version"
    assert query(reader, events) == [
        (2, "added", 1, "block", "chargebacks"),
        (3, "removed", 1, "block", "chargebacks"),
    ]
    downgrade(database, "0008")
    assert query(database, "SELECT to_regclass('user_list_events'), count(*) FROM rule_books") == [(None, 3)]
    migrate(database)
    assert len(query(reader, events)) == 2


def test_exemptions_come_and_go_and_the_lists_stay_guarded(database: str, postgres: EmbeddedPostgres) -> None:
    open_shop(database)
    for _ in range(2):
        downgrade(database, "0010")
        assert query(database, "SELECT to_regclass('rule_exemptions')") == [(None,)]
        add_entry(database, 1, "block", "chargebacks")
        with pytest.raises(psycopg2.errors.RaiseException, match="entries of user_lists are never changed"):
            execute(database, "UPDATE user_lists SET reason = 'y'")
        remove_entry(database, 1, "block")
        migrate(database)
        until = datetime.now(UTC) + timedelta(days=1)
        add_exemption(database, Exemption("foreign_country", 1, "abroad", "Sari", until))
        remove_exemption(database, "foreign_country", 1)
        reader = postgres.url(database.rpartition("/")[2], Role.READER)
        events = "SELECT event_id, event, rule, user_id, author, lists_version FROM rule_exemption_events"
        [(version,)] = query(database, "SELECT version FROM user_lists_version")
        assert query(reader, f"{events} ORDER BY event_id") == [
            (2, "added", "foreign_country", 1, "Sari", version - 1),
            (3, "removed", "foreign_country", 1, "Sari", version),
        ]


def test_the_brake_comes_and_goes(database: str) -> None:
    override = (
        "INSERT INTO rule_overrides (rule, mode, expected_low, expected_high, orders, held, rules_version)"
        " VALUES ('r', 'active', 0, 0.1, 100, 90, 'v')"
    )
    for version in (1, 2):
        downgrade(database, "0011")
        assert query(database, "SELECT to_regclass('rule_overrides')") == [(None,)]
        migrate(database)
        execute(database, override)
        assert query(database, "SELECT added_version, version FROM rule_overrides, user_lists_version") == [
            (version, version)
        ]


def test_ground_truth_comes_and_goes_on_a_filled_database(database: str, postgres: EmbeddedPostgres) -> None:
    downgrade(database, "0006")
    open_shop(database)
    execute(database, OLD_ORDERS)
    migrate(database)
    execute(database, "INSERT INTO shipments (order_id, status, packed_at) VALUES (1, 'packed', now())")
    execute(database, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (2, 'fraud', 'Sari')")
    reader = postgres.url(database.rpartition("/")[2], Role.READER)
    versions = "SELECT order_id, status, refund_amount FROM shipments_history"
    assert query(reader, versions) == [(1, "packed", 0)]
    downgrade(database, "0006")
    assert query(database, "SELECT to_regclass('shipments'), to_regclass('verdicts')") == [(None, None)]
    assert query(database, "SELECT proname FROM pg_proc WHERE proname ~ '^keep_(shipment|dispute)'") == []
    assert query(database, "SELECT array_agg(id ORDER BY id) FROM orders") == [([1, 2, 3, 4, 5],)]
    migrate(database)
    assert query(reader, versions) == []


def test_the_flagged_emissions_come_back_with_a_downgrade_and_go_again(database: str) -> None:
    tables = "SELECT to_regclass('flagged_emissions') IS NULL, to_regclass('orders_position') IS NULL"
    assert query(database, tables) == [(True, False)]
    downgrade(database, "0003")
    assert query(database, tables) == [(False, True)]
    migrate(database)
    assert query(database, tables) == [(True, False)]
