"""Migrations that can be undone."""

from __future__ import annotations

import pytest

from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform_tests.support.migrations import downgrade
from ecommersss_platform_tests.support.shop import add_orders, execute, open_shop, query
from streaming.database import migrate
from streaming.roles import Role

pytestmark = pytest.mark.integration


def test_ground_truth_comes_and_goes_on_a_filled_database(database: str, postgres: EmbeddedPostgres) -> None:
    downgrade(database, "0006")
    open_shop(database)
    add_orders(database, [1, 2])
    migrate(database)
    execute(database, "INSERT INTO shipments (order_id, status, packed_at) VALUES (1, 'packed', now())")
    execute(database, "INSERT INTO verdicts (order_id, verdict, reviewer) VALUES (2, 'fraud', 'Sari')")
    reader = postgres.url(database.rpartition("/")[2], Role.READER)
    versions = "SELECT order_id, status, refund_amount FROM shipments_history"
    assert query(reader, versions) == [(1, "packed", 0)]
    downgrade(database, "0006")
    assert query(database, "SELECT to_regclass('shipments'), to_regclass('verdicts')") == [(None, None)]
    assert query(database, "SELECT proname FROM pg_proc WHERE proname ~ '^keep_(shipment|dispute)'") == []
    assert query(database, "SELECT array_agg(id ORDER BY id) FROM orders") == [([1, 2],)]
    migrate(database)
    assert query(reader, versions) == []


def test_the_flagged_emissions_come_back_with_a_downgrade_and_go_again(database: str) -> None:
    tables = "SELECT to_regclass('flagged_emissions') IS NULL, to_regclass('orders_position') IS NULL"
    assert query(database, tables) == [(True, False)]
    downgrade(database, "0003")
    assert query(database, tables) == [(False, True)]
    migrate(database)
    assert query(database, tables) == [(True, False)]
