"""The stream as the monitor sees it: consumers that stall or fall behind, and silent producers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ecommersss_platform.alerts.look import Look, Undecided
from ecommersss_platform.alerts.processes import recent_restarts, restarting
from ecommersss_platform.alerts.stream import (
    SILENT,
    STALLED,
    Lag,
    consumer_stalled,
    lag_rising,
    producer_silent,
    rises,
)
from ecommersss_platform.health import consumers_problem
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import CONSUMER, TOPIC, orders_topic
from ecommersss_platform_tests.support import shop
from streaming.database import connect

NOW = shop.NOON
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
UP: dict[str, Any] = {"processes": [{"name": "consumer"}, {"name": "producer"}]}


@pytest.fixture
def look(database: str, tmp_path: Path) -> Iterator[Look]:
    with closing(connect(database)) as connection:
        connection.autocommit = True
        yield Look(Settings(home=tmp_path), NOW, LONG_AGO, _connection=connection)


def later(look: Look, after: timedelta) -> Look:
    return replace(look, now=look.now + after)


def commit(url: str, position: int) -> None:
    statement = (
        "INSERT INTO topic_positions VALUES (%s, %s, %s)"
        " ON CONFLICT (topic, consumer) DO UPDATE SET position = excluded.position"
    )
    shop.execute(url, statement, (TOPIC, CONSUMER, position))


@pytest.mark.integration
def test_consumer_that_lags_is_stalled_after_a_minute_without_a_commit(look: Look, database: str) -> None:
    assert consumer_stalled(look) == [], "an empty topic"
    end = orders_topic(look.settings).publish([b"{}", b"{}"])
    for waited in (timedelta(), STALLED - timedelta(seconds=1)):
        with pytest.raises(Undecided):
            consumer_stalled(later(look, waited))
    [problem] = consumer_stalled(later(look, STALLED))
    assert problem.summary.startswith(
        f"the consumer is at position 0, {end} bytes behind, and has committed nothing for 60 s: orders are"
    )
    commit(database, 3)
    assert consumer_stalled(later(look, STALLED)) == [], "it works again"
    with pytest.raises(Undecided):
        consumer_stalled(later(look, 1.5 * STALLED))
    commit(database, end)
    assert consumer_stalled(later(look, 3 * STALLED)) == []


@pytest.mark.integration
def test_single_check_decides_within_seconds(look: Look) -> None:
    orders_topic(look.settings).publish([b"{}"])
    hasty = replace(look, patient=False)
    with pytest.raises(Undecided):
        consumer_stalled(hasty)
    assert len(consumer_stalled(later(hasty, timedelta(seconds=5)))) == 1


def test_one_consumer_that_works_is_enough_on_a_shared_topic() -> None:
    assert consumers_problem([400.0, 1.0], 30) is None
    assert consumers_problem([400.0, 31.0], 30) == "the consumer has said nothing to the database for 31 s"
    assert consumers_problem([], 30) == "no consumer is connected to the database"


def lags(*megabytes: float) -> list[Lag]:
    """Return lags that were seen one minute apart."""
    return [Lag(NOW + timedelta(minutes=n), 0, int(mb * 1e6)) for n, mb in enumerate(megabytes)]


def test_lag_rises_when_it_grows_for_a_quarter_of_an_hour() -> None:
    assert rises(lags(*range(16)))
    assert not rises(lags(*range(10))), "not for long"
    assert not rises(lags(*(0.01 * n for n in range(16)))), "a small one"
    assert not rises(lags(*[10, 11] * 8)), "a steady one"
    assert not rises(lags(*range(15), 0)), "it has caught up"
    assert not rises([])


@pytest.mark.integration
def test_lag_that_grows_is_told_with_its_figures(look: Look) -> None:
    topic = orders_topic(look.settings)
    for minute in range(16):
        topic.publish([b"x" * 200_000])
        found = lag_rising(later(look, timedelta(minutes=minute)))
    [problem] = found
    assert "grown from 200,001 to 3,200,016 bytes within 15 min" in problem.summary


@pytest.mark.integration
def test_producer_of_ours_is_silent_after_ten_minutes(look: Look) -> None:
    look = replace(look, now=datetime.now(UTC), up=UP)
    orders_topic(look.settings).publish([b"{}"])
    assert producer_silent(look) == []
    [segment] = look.settings.orders_topic_dir.glob("*.jsonl")
    silent_since = look.now - SILENT - timedelta(minutes=1)
    os.utime(segment, (silent_since.timestamp(),) * 2)
    [problem] = producer_silent(look)
    assert problem.summary.startswith(f"nothing was published to {look.settings.orders_topic_dir} for 66")
    with pytest.raises(Undecided):  # after a night without a platform
        producer_silent(replace(look, since=look.now - SILENT / 2))
    assert producer_silent(replace(look, up={"processes": [{"name": "consumer"}]})) == [], "none is to run"


@pytest.mark.integration
def test_topic_of_others_is_silent_only_when_it_usually_is_not(look: Look, database: str) -> None:
    shop.open_shop(database)
    assert producer_silent(look) == [], "no orders in the last week at this hour"
    shop.add_orders(database, range(1, 81))
    for day in range(1, 8):  # ten of them on each of seven days
        moved = (timedelta(days=day, minutes=5), 10 * day - 9, 10 * day)
        shop.execute(
            database, "UPDATE orders SET created_date = created_date - %s WHERE id BETWEEN %s AND %s", moved
        )
    shop.execute(database, "DELETE FROM orders WHERE id > 70")
    assert [problem.kind for problem in producer_silent(look)] == ["producer_silent"]
    shop.add_orders(database, [99])
    assert producer_silent(later(look, timedelta(minutes=1))) == [], "it came by another way"


def test_process_that_ended_three_times_is_told_until_it_has_run_for_a_minute() -> None:
    def restarts(*minutes: float) -> list[str]:
        return [(NOW - timedelta(minutes=m)).isoformat() for m in minutes]

    ended = {
        "name": "consumer",
        "restarted_at": restarts(8, 2, 0.1),
        "problem": "exit code 1: password=s3cret",
    }
    others = [
        {"name": "webserver", "restarted_at": restarts(12, 2, 0.1), "problem": "exit code 1"},
        {"name": "daemon", "restarted_at": restarts(3, 2, 1), "problem": None},
        {"name": "postgres", "problem": None},
    ]
    assert recent_restarts(others[0], NOW) == 2
    look = Look(Settings(), NOW, LONG_AGO, {"processes": [ended, *others]})
    [problem] = restarting(look)
    assert (problem.kind, problem.subject) == ("consumer_restarting", "consumer")
    assert problem.summary == (
        "the consumer ended 3 times within 10 min (exit code 1: password=***): correct the cause, see"
        " logs/consumer.log; it is restarted by itself"
    )
    assert [p.kind for p in restarting(replace(look, up={"processes": [{**ended, "name": "code"}]}))] == [
        "process_restarting"
    ]
    assert list(restarting(replace(look, up=None))) == []
