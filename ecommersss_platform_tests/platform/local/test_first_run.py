"""The simulated history of a first run: once, complete, and never beside real orders."""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ecommersss_platform.instance.home import record_first_day
from ecommersss_platform.local.first_run import first_run_history
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import orders_topic
from streaming.simulator import history as simulation

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings of a new home whose first day is two days ago."""
    settings = Settings(home=tmp_path, first_day=(datetime.now(UTC) - timedelta(days=2)).date())
    record_first_day(settings)
    return settings


def count(url: str, table: str) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        return int(cursor.fetchone()[0])


def test_first_run_has_a_history_and_a_later_one_adds_none(settings: Settings, database: str) -> None:
    said: list[str] = []
    first_run_history(settings, database, 20, said.append)
    end = orders_topic(settings).end()
    users = count(database, "users")
    assert end > 0
    assert users > 0
    assert said[0] == "first run: simulating the marketplace's history"
    assert count(database, "orders") > 20
    assert count(database, "shipments") > 0
    assert said[2].startswith("what became of the orders: ")
    first_run_history(settings, database, 20, said.append)
    assert (orders_topic(settings).end(), count(database, "users")) == (end, users)
    assert len(said) == 3


@pytest.mark.faults
def test_first_run_that_was_interrupted_is_completed(
    settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    publish = simulation.publish_hours

    def killed(topic: Any, hours: Any, **arguments: Any) -> int:
        publish(topic, itertools.islice(hours, 40), **arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "publish_hours", killed)
    with pytest.raises(KeyboardInterrupt):
        first_run_history(settings, database, 20, said.append)
    begun = orders_topic(settings).end()
    assert begun > 0
    monkeypatch.setattr(simulation, "publish_hours", publish)
    first_run_history(settings, database, 20, said.append)
    assert "an earlier first run was interrupted: completing the simulated history" in said
    topic = orders_topic(settings)
    assert topic.end() > begun
    lines = topic.reader(topic.start()).read(10_000, timeout=0.0).lines
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) > 1
    first_run_history(settings, database, 20, said.append)
    assert topic.end() == orders_topic(settings).end()


def test_platform_with_orders_of_its_own_gets_no_simulated_history(settings: Settings, database: str) -> None:
    orders_topic(settings).publish([b"{}"])
    first_run_history(settings, database, 20, lambda _: None)
    assert count(database, "users") == 0
    assert orders_topic(settings).end() == 3
