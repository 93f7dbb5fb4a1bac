"""Alerts: one JSON line for each failed run, and nothing secret in it."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ecommersss_platform.alerts.run_failures import LONGEST_MESSAGE, alert, append
from ecommersss_platform.alerts.text import without_secrets

AT = datetime(2025, 1, 31, 20, 0, 1, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ecommersss:s3cret@127.0.0.1:5433/dagster", "postgresql://***@127.0.0.1:5433/dagster"),
        ("password=hunter2 host=x", "password=*** host=x"),
        ("PASSWORD: 'two words', next", "PASSWORD: ***, next"),
        ('token="abc"', "token=***"),
        ("see https://docs.example.org/a@b", "see https://docs.example.org/a@b"),
        ("nothing was published for raw.orders", "nothing was published for raw.orders"),
    ],
)
def test_credentials_are_masked(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_an_alert_says_what_ran_who_asked_and_what_went_wrong() -> None:
    line = alert(
        at=AT,
        run_id="b2c0",
        job="daily_pipeline",
        tags={
            "dagster/asset_partition_range_start": "2025-01-01",
            "dagster/asset_partition_range_end": "2025-01-30",
            "dagster/sensor_name": "order_stream_sensor",
            "ecommersss/host": "elsewhere",
        },
        steps={"raw__orders": "connection to postgresql://u:p@db/x refused", "marts": "x" * 5000},
        message="Steps failed: ['raw__orders'].",
    )
    assert line == {
        "at": "2025-01-31T20:00:01+00:00",
        "alert": "run_failed",
        "job": "daily_pipeline",
        "run_id": "b2c0",
        "partitions": {
            "asset_partition_range_start": "2025-01-01",
            "asset_partition_range_end": "2025-01-30",
        },
        "started_by": {"sensor_name": "order_stream_sensor"},
        "steps": {
            "raw__orders": "connection to postgresql://***@db/x refused",
            "marts": "x" * LONGEST_MESSAGE,
        },
        "message": "Steps failed: ['raw__orders'].",
    }


def test_lines_are_appended_once_for_each_run_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "home" / "alerts.jsonl"
    assert append(path, {"run_id": "a", "message": "two\nlines, dua baris: é"})
    assert append(path, {"run_id": "b"})
    assert not append(path, {"run_id": "a", "message": "the same run, from another process"})
    lines = path.read_text().splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == ["a", "b"]
    assert json.loads(lines[0])["message"] == "two\nlines, dua baris: é"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
