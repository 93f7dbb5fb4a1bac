"""The consumer's health check against a real topic and database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from ecommersss_platform import health
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import CONSUMER, TOPIC, orders_topic
from streaming.database import connect

pytestmark = pytest.mark.integration


def _commit(url: str, position: int) -> None:
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO topic_positions VALUES (%s, %s, %s)"
            " ON CONFLICT (topic, consumer) DO UPDATE SET position = excluded.position",
            (TOPIC, CONSUMER, position),
        )


def test_a_consumer_is_judged_by_what_it_committed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path))
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", database)
    monkeypatch.setattr(health.time, "sleep", lambda _: None)
    topic = orders_topic(Settings())
    assert health.main(["consumer"]) == 0, "nothing is in the topic, so nothing is left to do"
    end = topic.publish([b"{}", b"{}"])
    assert health.main(["consumer"]) == 1
    _commit(database, 3)
    assert health.main(["consumer"]) == 1
    _commit(database, end)
    assert health.main(["consumer"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "the consumer is healthy",
        f"the consumer is at position 0, {end} bytes behind, and committed nothing for 5 s",
        f"the consumer is at position 3, {end - 3} bytes behind, and committed nothing for 5 s",
        "the consumer is healthy",
    ]


def test_a_consumer_without_its_database_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path))
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert health.main(["consumer"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("PostgreSQL is not reached: ")
    assert "Connection refused" in printed
