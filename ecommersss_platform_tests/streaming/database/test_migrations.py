"""Migrations that can be undone."""

from __future__ import annotations

import pytest

from ecommersss_platform_tests.support.migrations import downgrade
from ecommersss_platform_tests.support.shop import query
from streaming.database import migrate

pytestmark = pytest.mark.integration


def test_the_flagged_emissions_come_back_with_a_downgrade_and_go_again(database: str) -> None:
    tables = "SELECT to_regclass('flagged_emissions') IS NULL, to_regclass('orders_position') IS NULL"
    assert query(database, tables) == [(True, False)]
    downgrade(database, "0003")
    assert query(database, tables) == [(False, True)]
    migrate(database)
    assert query(database, tables) == [(True, False)]
