"""Retention with positions from PostgreSQL, the cursor from Dagster's storage, and segments on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData

from ecommersss_platform import topic_retention as retention
from ecommersss_platform.cli.app import main
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.order_stream import Cursor
from ecommersss_platform.sensors import ORDER_STREAM_SENSOR
from ecommersss_platform.settings import Settings
from ecommersss_platform.topic_retention import plan, remove, retention_job, sensor_position
from ecommersss_platform.topics import TOPIC, flagged_stream, orders_topic
from ecommersss_platform_tests.conftest import administer
from ecommersss_platform_tests.support.shop import execute, open_shop, order, query, read_all
from streaming.consumer import Consumer
from streaming.orders import encode
from streaming.rules import RULES_PATH, RuleBook
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

DAY = 24 * 3600
BOOK = RuleBook.load(RULES_PATH)


def cursor_of(instance: DagsterInstance, position: int | None, location: str = "here") -> None:
    """Let the sensor of a code location have this cursor, as after a tick; None: it never ticked."""
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    origin = RemoteInstigatorOrigin(repository, ORDER_STREAM_SENSOR)
    instance.add_instigator_state(
        InstigatorState(
            origin,
            InstigatorType.SENSOR,
            InstigatorStatus.DECLARED_IN_CODE,
            SensorInstigatorData(cursor=None if position is None else Cursor(position, position).text()),
        )
    )


@pytest.fixture(scope="module")
def dagster_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The database of Dagster's storage. Its tables are made by the first test that opens it."""
    administer(postgres, "CREATE DATABASE dagster_of_retention")
    yield postgres.url("dagster_of_retention")
    administer(postgres, "DROP DATABASE dagster_of_retention WITH (FORCE)")


@pytest.fixture
def settings(database: str, dagster_url: str, tmp_path: Path) -> Settings:
    """A platform whose orders and flagged streams have one segment for each of ten orders, all consumed.

    No sensor has ticked.
    """
    if query(dagster_url, "SELECT to_regclass('instigators')") != [(None,)]:
        execute(dagster_url, "DELETE FROM instigators; DELETE FROM jobs")
    open_shop(database)
    settings = Settings(home=tmp_path, database_url=database, dagster_url=dagster_url)
    orders, flagged = (
        JsonlTopic(directory, segment_bytes=1)
        for directory in (settings.orders_topic_dir, settings.flagged_topic_dir)
    )
    for number in range(1, 11):
        orders.publish([encode(order(number))])
    Consumer(database, orders, flagged, BOOK, topic_name=TOPIC, max_lines=1).run(once=True)
    age(orders, 40)
    age(flagged, 40)
    return settings


def age(topic: JsonlTopic, days: float) -> None:
    when = time.time() - days * DAY
    for begin in topic.segments():
        os.utime(topic.path(begin), (when, when))


def counts(settings: Settings) -> tuple[int, int]:
    return len(orders_topic(settings).segments()), len(flagged_stream(settings).segments())


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["topics", "trim", *arguments])
    assert ended.value.code == 0


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(settings.home))
    for name in ("database_url", "dagster_url"):
        monkeypatch.setenv(f"ECOMMERSSS_{name.upper()}", getattr(settings, name).get_secret_value())


@pytest.mark.usefixtures("environment")
def test_the_command_shows_what_it_would_do_and_then_does_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings.dagster_url
    half = flagged_stream(settings).segments()[5]
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        cursor_of(instance, half)
    run("--dry-run", "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    assert counts(settings) == (10, 10)
    assert [row["removable"] for row in rows if row["stream"] == "orders"] == [True] * 9 + [False]
    flagged_rows = [row for row in rows if row["stream"] == "flagged_orders"]
    assert [row["removable"] for row in flagged_rows] == [True] * 5 + [False] * 5
    assert flagged_rows[5]["why"].startswith(f"order_stream_sensor is at position {half}, before its end ")

    run()
    assert "removed 14 of 20 segments" in capsys.readouterr().out
    assert counts(settings) == (1, 5)
    assert flagged_stream(settings).start() == half


@pytest.mark.usefixtures("environment")
def test_nothing_goes_from_the_flagged_stream_before_the_sensor_has_ticked(settings: Settings) -> None:
    run()
    assert counts(settings) == (1, 10)


def test_the_sensor_that_is_furthest_behind_counts(settings: Settings) -> None:
    assert settings.dagster_url
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        assert sensor_position(instance) is None
        cursor_of(instance, 900)
        assert sensor_position(instance) == 900
        cursor_of(instance, 300, location="an older one")
        assert sensor_position(instance) == 300
        cursor_of(instance, None, location="one that never finished a tick")
        assert sensor_position(instance) == 0


def test_a_consumer_that_is_behind_keeps_what_it_needs(settings: Settings) -> None:
    assert settings.database_url
    url = settings.database_url.get_secret_value()
    position = orders_topic(settings).segments()[4]
    execute(url, "INSERT INTO topic_positions VALUES ('orders', 'audit', %s)", (position,))
    [orders, _] = plan(settings, url, None)
    assert [v.removable for v in orders.judgements] == [True] * 4 + [False] * 6
    assert f'the consumer "audit" is at position {position}' in orders.judgements[4].reason
    execute(url, "DELETE FROM topic_positions")
    [orders, _] = plan(settings, url, None)
    assert {v.reason for v in orders.judgements[:1]} == {"no reader of the topic is known"}


@pytest.mark.parametrize("change", [{"topic_retention_days": 0, "flagged_retention_days": 0}, {}])
def test_young_segments_and_those_that_are_kept_for_ever_stay(
    settings: Settings, change: dict[str, Any]
) -> None:
    assert settings.database_url
    if not change:
        age(orders_topic(settings), 29.9)
        age(flagged_stream(settings), 29.9)
    changed = settings.model_copy(update=change)
    gone = remove(plan(changed, settings.database_url.get_secret_value(), flagged_stream(settings).end()))
    assert gone == {"orders": [], "flagged_orders": []}
    assert counts(settings) == (10, 10)


def test_the_consumer_and_the_producer_go_on_after_it(settings: Settings) -> None:
    assert settings.database_url
    url = settings.database_url.get_secret_value()
    orders, flagged = orders_topic(settings), flagged_stream(settings)
    remove(plan(settings, url, flagged.end()))
    assert counts(settings) == (1, 1)
    orders.publish([encode(order(11)), encode(order(3)), b"no order"])
    consumer = Consumer(url, orders, flagged, BOOK, topic_name=TOPIC)
    consumer.run(once=True)
    assert (consumer.counters.orders, consumer.counters.duplicates) == (1, 1), "an old order is still known"
    assert query(url, "SELECT count(*), max(id) FROM orders") == [(11, 11)]
    assert len(read_all(flagged)) == 2


@contextmanager
def running(settings: Settings) -> Iterator[Callable[[], None]]:
    """The daily job in this process, on an instance of its own."""
    assert settings.dagster_url
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        cursor_of(instance, flagged_stream(settings).end())

        def execute_job() -> None:
            result = retention_job(settings).execute_in_process(instance=instance)
            assert result.success

        yield execute_job


def test_the_daily_job_removes_and_says_what(settings: Settings) -> None:
    with running(settings) as execute_job:
        execute_job()
        assert counts(settings) == (1, 1)
        execute_job()
        assert counts(settings) == (1, 1)


def test_a_job_that_cannot_reach_the_database_removes_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    monkeypatch.setattr(retention, "database_url", lambda _: away)
    assert settings.dagster_url
    with dagster_instance(settings, settings.dagster_url.get_secret_value()) as instance:
        cursor_of(instance, flagged_stream(settings).end())
        result = retention_job(settings).execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
    assert counts(settings) == (10, 10)
