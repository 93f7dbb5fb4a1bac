"""The external assets beside what PostgreSQL has."""

from __future__ import annotations

import pytest

from ecommersss_platform.assets.sources import source_assets, source_tables
from ecommersss_platform_tests.support.shop import query

INTERNAL = {
    *("ecommersss_schema_version", "marketplace_hours", "topic_positions", "user_lists_version"),
    *("warehouse_usage", "rule_probations", "rule_overrides"),
}
"""The tables in which the platform keeps its own state: no data that flows through it."""


@pytest.mark.integration
def test_every_table_of_postgresql_is_an_asset_with_all_its_columns(database: str) -> None:
    rows = query(
        database,
        "SELECT table_name, column_name FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY table_name, ordinal_position",
    )
    found: dict[str, list[str]] = {}
    for table, column in rows:
        found.setdefault(table, []).append(column)
    histories = {name for name in found if name.endswith("_history")}
    shown = {table.name: [column.name for column in table.columns] for table in source_tables()}
    assert set(found) - INTERNAL - histories == set(shown)
    assert {name.removesuffix("_history") for name in histories} <= set(shown)
    for name, columns in shown.items():
        assert sorted(found[name]) == sorted(columns), name


def test_the_topic_is_of_the_kind_that_the_settings_choose() -> None:
    for topic in ("jsonl", "pubsub"):
        streams = {spec.key.path[-1]: spec.kinds for spec in source_assets(topic)[:2]}
        assert streams == {"orders": {"stream", topic}, "flagged_orders": {"stream", "jsonl"}}
