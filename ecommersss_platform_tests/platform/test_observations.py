"""Observations of the sources: what they say, and that an unchanged source gets none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetObservation,
    AssetSpec,
    DagsterInstance,
    DataVersion,
    Definitions,
    MaterializeResult,
    asset,
    build_sensor_context,
    define_asset_job,
    materialize,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ecommersss_platform.assets.sources import FLAGGED_STREAM, ORDERS_TOPIC, source_assets
from ecommersss_platform.observations import (
    INTERVAL,
    flagged_figures,
    has_changed,
    is_due,
    observe,
    record_closed_day,
    since,
)
from ecommersss_platform.order_stream import Cursor, Seen
from ecommersss_platform.partitions import daily_partitions
from ecommersss_platform.sensors import order_stream_sensor
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import flagged_stream, orders_topic, progress_figures
from ecommersss_platform_tests.support import shop

NOW = datetime(2026, 3, 25, 5, tzinfo=UTC)
ALL = {spec.key for spec in source_assets("jsonl")}


def test_the_sensor_observes_at_most_every_few_minutes() -> None:
    assert is_due(None, NOW)
    assert not is_due(NOW, NOW + INTERVAL - timedelta(seconds=1))
    assert is_due(NOW, NOW + INTERVAL)


def test_a_source_has_changed_if_its_state_has_whatever_else_was_observed() -> None:
    assert has_changed(None, {"end": 0})
    assert has_changed({"end": 10, "lag": 0}, {"end": 10, "lag": 3})
    assert not has_changed({"end": 10, "lag": 0, "orders": 7}, {"end": 10, "lag": 0})


def test_written_rows_are_counted_since_the_last_observation_also_after_a_crash() -> None:
    assert since(None, {"writes": 9}) == {}
    assert since({"end": 3}, {"end": 9}) == {}
    assert since({"writes": 4}, {"writes": 9}) == {"written": 5}
    assert since({"writes": 900}, {"writes": 9}) == {"written": 9}


def test_the_share_of_fraud_is_that_of_the_new_orders() -> None:
    assert flagged_figures(Seen(8, 1, NOW)) == {
        "orders": 8,
        "fraud_percentage": 12.5,
        "newest_order": NOW,
    }
    assert flagged_figures(Seen()) == {"orders": 0}


def test_progress_of_either_topic_can_be_plotted() -> None:
    consumers = [{"consumer": "a", "position": 4, "lag": 6}, {"consumer": "b", "position": 1, "lag": 9}]
    assert progress_figures({"kind": "jsonl", "start": 0, "end": 10, "consumers": consumers}) == {
        "end": 10,
        "lag": 9,
    }
    shared = {"kind": "pubsub", "last_position": 7, "not_in_flagged_stream": 2, "unacknowledged": None}
    assert progress_figures(shared) == {"last_position": 7, "not_in_flagged_stream": 2}
    assert progress_figures({**shared, "last_position": None}) == {"not_in_flagged_stream": 2}


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


def figures(observation: AssetObservation) -> dict[str, Any]:
    return {name: value.value for name, value in observation.metadata.items()}


def record(instance: DagsterInstance, observations: list[AssetObservation]) -> dict[AssetKey, dict[str, Any]]:
    """Store the observations, as the daemon does, and return their figures."""
    for observation in observations:
        instance.report_runless_asset_event(observation)
    return {observation.asset_key: figures(observation) for observation in observations}


def wait_until_counted(database: str, rows: dict[str, int]) -> None:
    """Wait until PostgreSQL has counted the writes of sessions that have just ended."""
    for _ in range(100):
        found = shop.query(database, "SELECT relname, n_tup_ins FROM pg_stat_user_tables WHERE n_tup_ins > 0")
        if rows.items() <= dict(found).items():
            return
        time.sleep(0.1)
    raise AssertionError(f"PostgreSQL has counted {found}")


@pytest.mark.integration
def test_only_what_has_changed_is_observed_again(
    database: str, instance: DagsterInstance, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, database_url=database, _env_file=None)  # type: ignore[arg-type, call-arg]
    orders_topic(settings).publish([b"one"])
    flagged_stream(settings).publish([b"two"])
    observations, problem = observe(instance, settings, Seen(4, 1, NOW))
    assert problem is None
    first = record(instance, observations)
    assert set(first) == ALL
    assert first[ORDERS_TOPIC] == {"end": 4, "lag": 4}
    assert first[FLAGGED_STREAM] == {
        "end": 4,
        "orders": 4,
        "fraud_percentage": 25.0,
        "newest_order": NOW.timestamp(),
    }
    assert observe(instance, settings, Seen()) == ([], None)

    shop.open_shop(database, users=3, products=2)
    shop.add_orders(database, [1, 2])
    shop.execute(
        database,
        "INSERT INTO rejected_orders (position, raw, reason, detail) VALUES (9, 'x', 'malformed_json', '')",
    )
    written = {"users": 3, "products": 2, "orders": 2, "rejected_orders": 1}
    wait_until_counted(database, written)
    second = record(instance, observe(instance, settings)[0])
    names = {key.path[-1]: found for key, found in second.items()}
    assert {name: found["written"] for name, found in names.items()} == written
    assert names["rejected_orders"]["not_retried"] == 1
    assert names["orders"]["newest_order"] > 0


@pytest.mark.integration
def test_the_daily_close_records_what_the_day_came_to(
    database: str, instance: DagsterInstance, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, database_url=database, _env_file=None)  # type: ignore[arg-type, call-arg]
    shop.open_shop(database)
    shop.add_orders(database, [1, 2])
    shop.execute(database, "UPDATE orders SET is_fraud = (id = 1), created_date = '2026-03-04T16:59:59Z'")
    record_closed_day(settings, instance, date(2026, 3, 4))
    record_closed_day(
        settings, instance, date(2026, 3, 5)
    )  # nothing has changed: its orders are counted all the same
    key = AssetKey(["postgres", "orders"])
    newest, before = (
        figures(it.asset_observation)
        for it in instance.fetch_observations(key, limit=5).records
        if it.asset_observation
    )
    assert (before["orders_of_day"], before["fraud_percentage_of_day"], before["rejected_of_day"]) == (
        2,
        50,
        0,
    )
    assert (newest["orders_of_day"], newest["rejected_of_day"]) == (0, 0)
    assert len(instance.fetch_observations(AssetKey(["postgres", "users"]), limit=5).records) == 1


def test_a_source_that_cannot_be_read_is_a_note_and_the_tick_does_its_work(
    instance: DagsterInstance, tmp_path: Path
) -> None:
    settings = Settings(
        home=tmp_path,
        database_url="postgresql://nobody@127.0.0.1:1/none",  # type: ignore[arg-type]
        _env_file=None,  # type: ignore[call-arg]
    )
    assert observe(instance, settings)[0] == []
    sensor = order_stream_sensor(define_asset_job("days", selection="*"), settings, date(2026, 1, 1))
    result = sensor.evaluate_tick(build_sensor_context(instance))
    assert result.asset_events == []
    assert result.skip_message == "no new flagged orders (position 0)"
    cursor = Cursor.parse(result.cursor)
    assert cursor.observed_at is not None, "a server that hangs would hold up every tick"


def test_an_observation_makes_nothing_stale(instance: DagsterInstance) -> None:
    """The UI would call every table that was made of the source out of date, every five minutes."""
    days = daily_partitions(date(2026, 1, 1))
    source = AssetSpec(["postgres", "orders"])

    @asset(key=["raw", "orders"], deps=[source], partitions_def=days, code_version="1")
    def raw() -> MaterializeResult:
        return MaterializeResult(data_version=DataVersion("checksum"))

    @asset(key=["fraud", "user_lists"], deps=[raw, source])
    def lists() -> None: ...

    graph = Definitions([source, raw, lists]).resolve_asset_graph()

    def statuses() -> set[StaleStatus]:
        context = LoadingContextForTest(instance)
        resolver = CachingStaleStatusResolver(instance, graph, context)
        return {
            resolver.get_status(raw.key, "2026-01-05"),
            resolver.get_status(lists.key),
            resolver.get_status(source.key),
        }

    materialize([source, raw], instance=instance, partition_key="2026-01-05")
    materialize([source, raw, lists], instance=instance, selection=[lists])
    assert statuses() == {StaleStatus.FRESH}
    for writes in (1, 2):
        instance.report_runless_asset_event(AssetObservation(source.key, metadata={"writes": writes}))
        assert statuses() == {StaleStatus.FRESH}
    materialize([source, raw], instance=instance, partition_key="2026-01-05")
    instance.report_runless_asset_event(AssetObservation(source.key, metadata={"writes": 3}))
    assert statuses() == {StaleStatus.FRESH}
