"""The consumer's health check against a real topic and database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ecommersss_platform import health
from ecommersss_platform.cli.health import check, look_at_platform
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import CONSUMER, TOPIC, orders_topic
from ecommersss_platform_tests.support.home import Home
from streaming.database import connect

pytestmark = pytest.mark.integration


def _commit(url: str, position: int) -> None:
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO topic_positions VALUES (%s, %s, %s)"
            " ON CONFLICT (topic, consumer) DO UPDATE SET position = excluded.position",
            (TOPIC, CONSUMER, position),
        )


def test_consumer_is_judged_by_its_committed_position(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CONSUMER_PATIENCE", 0.1)
    settings = Settings(home=tmp_path, database_url=database)
    assert check("consumer", settings) is None, "an empty topic"
    end = orders_topic(settings).publish([b"{}", b"{}"])
    for committed in (0, 3):
        _commit(database, committed)
        assert check("consumer", settings) == (
            f"the consumer is at position {committed}, {end - committed} bytes behind, and committed nothing"
            " for 0.1 s"
        )
    _commit(database, end)
    assert check("consumer", settings) is None


def test_consumer_with_a_rule_book_that_cannot_be_used_is_unhealthy(database: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text("rules:\n  - {name: big, mode: active, when: quantity >}\n")
    problem = check("consumer", Settings(home=tmp_path, database_url=database, rules=rules))
    assert problem is not None
    assert problem.startswith(f"{rules}:2:")
    assert problem.endswith("correct the file, see `ecommersss rules check`")


def test_consumer_without_its_database_is_unhealthy(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://nobody@127.0.0.1:1/none")
    problem = check("consumer", settings)
    assert problem is not None
    assert problem.startswith("PostgreSQL is unreachable: ")
    assert "Connection refused" in problem


def test_platform_that_is_down_is_one_problem_that_says_how_to_start_it(tmp_path: Path) -> None:
    output = Home(tmp_path / "home").call("health", "platform", exit_code=1).stdout.splitlines()
    assert [line.split(":")[0] for line in output] == ["postgres_down (PostgreSQL)", "cannot be seen now"]
    assert "ecommersss up" in output[0]
    assert "freshness_missed, " in output[1]


def test_consumer_that_lags_is_looked_at_again_after_five_seconds(
    database: str, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, database_url=database, dagster_url=postgres.url("dagster"))
    orders_topic(settings).publish([b"{}"])
    waited: list[float] = []
    found = look_at_platform(settings, waited.append)
    assert waited == [5.0]
    assert "consumer_stalled" in found.unknown, "no time has passed on the clock"
