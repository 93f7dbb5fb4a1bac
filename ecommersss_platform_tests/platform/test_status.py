"""The report of `ecommersss status`: what went wrong is in it, and nothing that hangs delays it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test

from ecommersss_platform.alerts.message import as_row
from ecommersss_platform.alerts.problem import Observation, Problem
from ecommersss_platform.alerts.state import Message, transition
from ecommersss_platform.alerts.store import Store
from ecommersss_platform.cli.status import print_status
from ecommersss_platform.contracts import RAW_TABLES
from ecommersss_platform.instance.dagster_home import dagster_instance
from ecommersss_platform.local import stack
from ecommersss_platform.local.postgres import EmbeddedPostgres
from ecommersss_platform.settings import Settings
from ecommersss_platform.status import _Part, consumer, failed_runs, gather, recent_alerts
from ecommersss_platform.warehouse.names import full_name
from ecommersss_platform_tests.conftest import administer

NOW = datetime(2026, 3, 2, 5, tzinfo=UTC)


def _alert(at: datetime, subject: str, message: str = "boom") -> dict[str, Any]:
    problem = Problem("run_failed", subject, message)
    return as_row(Message(subject, "opened", at, at, problem))


def test_status_and_query_load_no_dagster() -> None:
    code = (
        "import sys, ecommersss_platform.status as status, ecommersss_platform.local.stack\n"
        "import ecommersss_platform.instance.databases, ecommersss_platform.cli.warehouse\n"
        "status._load_libraries()\n"
        "print('dagster' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_part_that_hangs_in_native_code_does_not_abort_the_command() -> None:
    code = (
        "import duckdb, ecommersss_platform.status as status\n"
        "def work():\n"
        "    while True: duckdb.sql('SELECT 1').fetchall()\n"
        "status._Part(work)\n"
        "print('the report')\n"
        "status.leave_hanging_parts()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "the report\n", "")


def test_alerts_of_the_last_day_are_reported_newest_first(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert recent_alerts(settings, NOW) == []
    alerts = [_alert(NOW - timedelta(hours=hours), f"run {hours}") for hours in (25, 23, 1)]
    earlier = '{"at": "2026-03-02T04:00:00+00:00", "alert": "run_failed", "run_id": "of an earlier version"}'
    lines = [*map(json.dumps, alerts), earlier, "null", '{"at": "yesterday"}', '{"at": "2026-03-02T04:']
    settings.alerts_path.write_text("\n".join(lines))
    assert [alert["subject"] for alert in recent_alerts(settings, NOW)] == ["run 1", "run 23"]


def test_a_consumer_that_should_answer_and_does_not_is_a_problem() -> None:
    silent = "http://127.0.0.1:1/metrics"
    assert consumer(None, "waiting") is None
    assert consumer(silent, "waiting") is None, "its process does not run"
    with pytest.raises(Exception, match=r"nothing answers at http://127\.0\.0\.1:1/metrics"):
        consumer(silent, "ready")


@contextmanager
def _stopped(server: EmbeddedPostgres) -> Iterator[None]:
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        for thread in threading.enumerate():
            if isinstance(thread, _Part):
                thread.join(20)


@pytest.fixture(scope="module")
def dagster_url(postgres: EmbeddedPostgres) -> str:
    """The URL of a database for Dagster's storage."""
    administer(postgres, "CREATE DATABASE dagster_of_status")
    return postgres.url("dagster_of_status")


@pytest.mark.integration
def test_a_frozen_server_delays_no_report(
    postgres: EmbeddedPostgres,
    database: str,
    dagster_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(home=tmp_path, database_url=database, dagster_url=dagster_url)
    with dagster_instance(settings, dagster_url):
        pass  # creates the storage
    assert gather(settings, patience=20)["problems"] == []
    with _stopped(postgres):
        began = time.monotonic()
        report = gather(settings, patience=1)
        assert time.monotonic() - began < 5
    assert report["problems"] == [
        {"what": "PostgreSQL", "problem": "did not answer within 1 s"},
        {"what": "Dagster's storage", "problem": "did not answer within 1 s"},
    ]
    assert (report["database"], report["topic"], report["rejected"], report["failed_runs"]) == (None,) * 4
    assert report["flagged_stream"] == {"start": 0, "end": 0}
    assert [row["table"] for row in report["partitions"]] == [full_name(table) for table in RAW_TABLES]
    print_status(report)
    assert "PostgreSQL        │ did not answer within 1 s" in capsys.readouterr().out


@pytest.mark.integration
def test_failed_runs_a_bad_rule_book_and_a_crash_loop_are_shown(
    database: str,
    dagster_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text("rules: [")
    settings = Settings(home=tmp_path, database_url=database, dagster_url=dagster_url, rules=rules)
    days = {"range_start": "2026-03-01", "range_end": "2026-03-02"}
    tags = {f"dagster/asset_partition_{name}": day for name, day in days.items()}
    with dagster_instance(settings, dagster_url) as instance:
        run = create_run_for_test(
            instance, job_name="daily_pipeline", status=DagsterRunStatus.STARTED, tags=tags
        )
        create_run_for_test(instance, job_name="daily_pipeline", status=DagsterRunStatus.SUCCESS)
        instance.report_run_failed(run, "boom")
    now = datetime.now(UTC)
    settings.alerts_path.write_text(json.dumps(_alert(now, "daily_pipeline", "raw__orders: no space")) + "\n")
    stalled = Problem("consumer_stalled", "the consumer of this test", "it committed nothing")
    Store(settings).update(lambda state: transition(state, Observation([stalled]), now, {"log": None})[0])
    row = {"name": "consumer", "pid": None, "state": "waiting", "restarts": 5, "what": "", "log": ""}
    reason = "ended with exit code 1 after 2 s, 5 times in a row: rules.yml:1:9: not YAML"
    up = {"ui": None, "metrics": None, "processes": [{**row, "problem": reason}]}
    monkeypatch.setattr(stack, "running", lambda _: up)
    report = gather(settings, patience=20)
    later = failed_runs(settings, now + timedelta(days=1, minutes=1))
    [failed] = [row for row in report["failed_runs"] if row["run"] == run.run_id]
    assert (failed["job"], failed["days"]) == ("daily_pipeline", "2026-03-01 to 2026-03-02")
    assert run.run_id not in {row["run"] for row in later}
    rule_book, consumer = report["problems"]
    assert rule_book["what"] == "rule book"
    assert rule_book["problem"].startswith(f"{rules}:1:")
    assert "none can start with it" in rule_book["problem"]
    assert consumer == {"what": "consumer", "problem": reason}
    print_status(report)
    shown = capsys.readouterr().out
    for text in (reason, run.run_id, "2026-03-01 to 2026-03-02", "raw__orders: no space"):
        assert text in shown
    assert "1 open problems" in shown
    assert [row["subject"] for row in report["open_problems"]] == [stalled.subject]
