"""`ecommersss up` with its real processes: one code server for all, which may die."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from benchmarks.stack import Platform, platform, wait_until
from ecommersss_platform.cli.health import look_at_platform
from ecommersss_platform.instance.databases import dagster_url
from ecommersss_platform.instance.home import ui_token
from ecommersss_platform.local import stack, ui
from ecommersss_platform.partitions import Days
from ecommersss_platform.run_tags import range_tags
from streaming.business_days import business_day
from streaming.database import connect

STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def row(running: Platform, name: str) -> dict[str, Any]:
    status = stack.running(running.settings)
    assert status is not None
    [found] = [found for found in status["processes"] if found["name"] == name]
    return dict(found)


def descendants(running: Platform, name: str) -> list[psutil.Process]:
    return list(psutil.Process(row(running, name)["pid"]).children(recursive=True))


@pytest.mark.integration
@pytest.mark.slow
def test_code_server_is_shared_and_private_and_its_runs_survive_it() -> None:
    with platform("--rate", "0", "--orders-per-day", "0") as running:
        dagster, token = running.dagster, ui_token(running.settings)
        port = int(dagster.address.rpartition(":")[2])
        assert ui.has_loaded_code(port, token)  # ready means ready
        [server] = descendants(running, "code")
        assert (descendants(running, "webserver"), descendants(running, "daemon")) == ([], [])
        assert (running.settings.home / "code.sock").stat().st_mode & 0o077 == 0

        def status(run: str) -> str:
            return str(dagster.ask(STATUS, id=run)["runOrError"]["status"])

        day = business_day(datetime.now(UTC))
        job, tags, assets = "__ASSET_JOB", range_tags(Days.between(day, day)), ["raw/users"]
        first, _ = dagster.launch(job, tags, assets)
        wait_until(lambda: status(first) == "STARTED", "the run does not start")
        server.kill()
        wait_until(lambda: row(running, "code")["restarts"] == 1, "the code server is not restarted")
        wait_until(lambda: status(first) != "STARTED", "the run does not end")
        assert status(first) == "SUCCESS"

        wait_until(
            lambda: row(running, "code")["state"] == "ready" and ui.has_loaded_code(port, token),
            "the code is not loaded again",
        )
        assert row(running, "webserver")["restarts"] == row(running, "daemon")["restarts"] == 0
        dagster.run(job, tags, assets)
        wait_until(lambda: fresh_tables(running), "the freshness sensor reports nothing")
        assert_consumer_that_dies_again_and_again_is_told(running)


def fresh_tables(running: Platform) -> int:
    """Return how many tables the daemon knows the freshness of, though no run evaluated it."""
    results = (
        "SELECT FROM asset_check_executions WHERE run_id = '' AND check_name = 'newest_closed_day_present'"
    )
    with closing(connect(dagster_url(running.settings))) as connection, connection.cursor() as cursor:
        cursor.execute(results)
        return int(cursor.rowcount)


def assert_consumer_that_dies_again_and_again_is_told(running: Platform) -> None:
    """Kill the consumer three times: one problem, until it has run for a minute."""

    def told() -> list[str]:
        return [problem.kind for problem in look_at_platform(running.settings).problems]

    assert told() == []
    for times in (1, 2, 3):
        psutil.Process(row(running, "consumer")["pid"]).kill()
        wait_until(
            lambda times=times: (
                row(running, "consumer")["restarts"] == times and row(running, "consumer")["pid"]
            ),
            "the consumer is not restarted",
        )
    assert told() == ["consumer_restarting"]


@pytest.mark.parametrize(
    ("location", "loaded"),
    [
        ([{"locationOrLoadError": {"__typename": "RepositoryLocation"}}], True),
        ([{"locationOrLoadError": {"__typename": "PythonError"}}], False),
        ([{"locationOrLoadError": None}], False),  # it is still loading
        ([], False),
    ],
)
def test_webserver_is_ready_when_it_has_loaded_the_code(
    location: list[dict[str, Any]], loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = {"data": {"workspaceOrError": {"locationEntries": location}}}
    monkeypatch.setattr(ui, "_request", lambda *arguments: answer)
    assert ui.has_loaded_code(0, "secret") is loaded
