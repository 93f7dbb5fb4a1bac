"""The blacklist of the marts becomes the block list of the stream."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from dagster import AssetKey, DagsterInstance, ExecuteInProcessResult, materialize

from ecommersss_platform.assets.fraud import block_blacklist, fraud_assets
from ecommersss_platform.postgres.resource import PostgresResource
from ecommersss_platform.resources import POSTGRES, WAREHOUSE
from ecommersss_platform.warehouse import TableNotFound
from ecommersss_platform.warehouse.duckdb.warehouse import DuckDbWarehouse
from ecommersss_platform_tests.support.shop import NOON, open_shop, order, query
from streaming.consumer import Consumer
from streaming.database.user_lists import add_entry, list_entries
from streaming.orders import encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

KEY = AssetKey(["fraud", "user_lists"])


@pytest.fixture
def url(database: str) -> str:
    open_shop(database, users=5)
    return database


def build_mart(path: Path, rows: list[tuple[int, int, str]]) -> None:
    """The mart with (user, fraud orders, status)."""
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS gold")
        connection.execute(
            "CREATE OR REPLACE TABLE gold.users_and_blacklist"
            " (user_id BIGINT, fraud_orders BIGINT, status VARCHAR)"
        )
        connection.executemany("INSERT INTO gold.users_and_blacklist VALUES (?, ?, ?)", rows)


def run(url: str, path: Path) -> ExecuteInProcessResult:
    with DagsterInstance.ephemeral() as instance:
        return materialize(
            fraud_assets("duckdb"),
            resources={POSTGRES: PostgresResource(url=url), WAREHOUSE: DuckDbWarehouse(path)},
            instance=instance,
            raise_on_error=False,
        )


def metadata(result: ExecuteInProcessResult) -> dict[str, object]:
    assert result.success
    [event] = result.asset_materializations_for_node("fraud__user_lists")
    assert event.asset_key == KEY
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown.pop("reason") == "asked for by a person"
    return shown


def test_the_blacklist_is_blocked_and_no_longer_when_it_is_not(url: str, tmp_path: Path) -> None:
    mart = tmp_path / "warehouse.duckdb"
    add_entry(url, 4, "block", "by hand")
    build_mart(
        mart, [(1, 3, "Blacklist"), (2, 2, "Watchlist"), (3, 0, "Good Standing"), (99, 9, "Blacklist")]
    )
    assert metadata(run(url, mart)) == {
        "dagster/row_count": 1,
        "added": 1,
        "removed": 0,
        "users_unknown_to_postgres": 1,
    }
    platform = [(e.user_id, e.list, e.reason) for e in list_entries(url) if e.source == "platform"]
    assert platform == [(1, "block", "3 fraud orders (gold.users_and_blacklist)")]
    [(version,)] = query(url, "SELECT version FROM user_lists_version")
    assert metadata(run(url, mart))["added"] == 0
    assert query(url, "SELECT version FROM user_lists_version") == [(version,)]

    build_mart(mart, [(1, 0, "Good Standing"), (2, 3, "Blacklist"), (3, 5, "Blacklist")])
    found = metadata(run(url, mart))
    assert (found["added"], found["removed"], found["dagster/row_count"]) == (2, 1, 2)
    assert [(e.user_id, e.source) for e in list_entries(url)] == [
        (2, "platform"),
        (3, "platform"),
        (4, "person"),
    ]


def test_the_stream_flags_who_was_blacklisted_and_not_whom_people_allow(url: str, tmp_path: Path) -> None:
    mart = tmp_path / "warehouse.duckdb"
    add_entry(url, 2, "allow", "known well")
    build_mart(mart, [(1, 3, "Blacklist"), (2, 4, "Blacklist")])
    run(url, mart)
    topic = JsonlTopic(tmp_path / "orders")
    topic.publish([encode(order(n, user_id=n, created_date=NOON)) for n in (1, 2, 3)])
    book = RuleBook.load(RULES_PATH)
    Consumer(url, topic, JsonlTopic(tmp_path / "flagged"), book).run(once=True)
    assert dict(query(url, "SELECT id, shadow_reasons FROM orders")) == {
        1: ["blacklisted_user"],
        2: [],
        3: [],
    }


def test_without_the_mart_nobody_is_unblocked(url: str, tmp_path: Path) -> None:
    mart = tmp_path / "warehouse.duckdb"
    build_mart(mart, [(1, 3, "Blacklist")])
    run(url, mart)
    with pytest.raises(TableNotFound):
        block_blacklist(PostgresResource(url=url), DuckDbWarehouse(tmp_path / "none.duckdb"))
    assert [e.user_id for e in list_entries(url)] == [1]
