"""The budget of a day: what the warehouse's service billed, and what that holds back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from dagster import DagsterInstance, SkipReason, build_sensor_context, define_asset_job
from psycopg2.extensions import connection as Connection

from ecommersss_platform.dbt.results import bytes_billed
from ecommersss_platform.sensors import budget_used_up, order_stream_sensor
from ecommersss_platform.settings import Settings
from ecommersss_platform.status import billed_today
from ecommersss_platform.usage import UsageLog, add, billed_on, used_up
from streaming.business_days import business_day
from streaming.database import connect

pytestmark = pytest.mark.integration

NOON = datetime(2025, 1, 31, 5, tzinfo=UTC)
TODAY = date(2025, 1, 31)


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with closing(connect(database, "test")) as connection:
        yield connection


def settings(database: str, home: Path, budget: int | None) -> Settings:
    return Settings(
        home=home,
        database_url=database,  # type: ignore[arg-type]
        bigquery_daily_bytes=budget,
        _env_file=None,  # type: ignore[call-arg]
    )


def test_bytes_are_added_up_by_business_day(connection: Connection) -> None:
    midnight = datetime(2025, 1, 31, 17, tzinfo=UTC)  # 00:00 on 1 February in Jakarta
    for moment, billed in ((NOON, 10), (NOON, 5), (midnight - timedelta(microseconds=1), 1), (midnight, 7)):
        add(connection, billed, moment)
    assert billed_on(connection, TODAY) == 16
    assert billed_on(connection, date(2025, 2, 1)) == 7
    assert billed_on(connection, date(2025, 2, 2)) == 0


def test_a_budget_is_used_up_by_what_its_day_was_billed(connection: Connection) -> None:
    add(connection, 999, NOON)
    assert used_up(connection, 1000, TODAY) is None
    add(connection, 1, NOON)
    assert used_up(connection, 1000, TODAY) == (
        "the warehouse's jobs of 2025-01-31 billed 1,000 of 1,000 bytes (ECOMMERSSS_BIGQUERY_DAILY_BYTES):"
        " the sensor requests no run before 2025-02-01; daily_close and runs that people ask for go on"
    )
    assert used_up(connection, 1000, TODAY + timedelta(days=1)) is None


def test_a_used_budget_holds_back_the_sensor(database: str, connection: Connection, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    add(connection, 5_000, now)
    tight = settings(database, tmp_path, 5_000)
    sensor = order_stream_sensor(define_asset_job("daily_pipeline"), tight, TODAY)  # type: ignore[arg-type]
    with DagsterInstance.ephemeral() as instance:
        # A cursor that the sensor could not read shows that it is left as it is.
        context = build_sensor_context(instance=instance, cursor="untouched")
        for _ in range(2):
            result = sensor(context)
            assert result.run_requests == []
            assert isinstance(result.skip_reason, SkipReason)
            assert "billed 5,000 of 5,000 bytes" in str(result.skip_reason.skip_message)
            assert result.cursor == "untouched"
    assert budget_used_up(settings(database, tmp_path, 5_001), now) is None
    assert budget_used_up(settings(database, tmp_path, None), now) is None


def test_status_shows_what_was_billed_and_the_budget(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    assert billed_today(settings(database, tmp_path, None), connection) is None
    log = UsageLog(settings(database, tmp_path, 100))
    log(60)
    log(39)
    report = billed_today(log.settings, connection)
    today = business_day(datetime.now(UTC))
    assert report == {"day": today, "bytes": 99, "budget": 100, "stream_runs": "requested"}
    log(1)
    report = billed_today(log.settings, connection)
    assert report is not None
    assert report["stream_runs"] == "held back"


def test_models_and_tests_of_a_dbt_run_are_billed(tmp_path: Path) -> None:
    reported = {"model.ecommersss.dim_users": {"job_bytes_billed": 30}, "model.ecommersss.view": {}}
    assert bytes_billed(tmp_path, reported) == 30
    results = [
        {"unique_id": "model.ecommersss.dim_users", "adapter_response": {"bytes_billed": 1}},
        {"unique_id": "test.ecommersss.one", "adapter_response": {"bytes_billed": 10_485_760}},
        {"unique_id": "test.ecommersss.skipped", "adapter_response": {}},
    ]
    (tmp_path / "run_results.json").write_text(json.dumps({"results": results}))
    assert bytes_billed(tmp_path, reported) == 10_485_790


def test_jobs_go_on_if_their_bytes_cannot_be_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    UsageLog(settings("postgresql://nobody@127.0.0.1:1/x?connect_timeout=1", tmp_path, 1))(1_234)
    [record] = caplog.records
    assert record.getMessage().startswith("1,234 billed bytes were not added to those of the day: ")
