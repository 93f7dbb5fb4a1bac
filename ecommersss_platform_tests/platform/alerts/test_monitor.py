"""The monitor as a process: kills at bad moments, restarts, and a look at its health."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from ecommersss_platform.alerts import monitor
from ecommersss_platform.alerts.listing import lines
from ecommersss_platform.alerts.monitor import PATIENCE, monitor_problem, tell_failed_runs
from ecommersss_platform.alerts.problem import Observation, Problem
from ecommersss_platform.alerts.store import Store
from ecommersss_platform.local.ports import free_port
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.home import Home
from ecommersss_platform_tests.support.inboxes import Webhook, webhook

KIND = "alert_state_damaged"
"""A kind of problem that a test can make by a file: no database is needed."""


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home without a platform, and with a problem."""
    path = tmp_path / "home"
    path.mkdir()
    (path / "alerts.json.damaged-1").touch()
    return Home(path)


@contextmanager
def running(home: Home, *urls: str) -> Iterator[int]:
    """A monitor as a process that tells these URLs, killed after the block; yield its process id."""
    home.variables["ECOMMERSSS_ALERTS"] = " ".join(urls)
    process = home.start("alerts", "run")
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def heard(hook: Webhook) -> list[str]:
    return [title for title in hook.titles if KIND in title]


def written(home: Home) -> list[str]:
    return [line["event"] for line in lines(home.settings.alerts_path) if line["alert"] == KIND]


@pytest.mark.integration
def test_monitor_that_is_killed_before_it_delivers_tells_everything_once_after_its_restart(
    home: Home,
) -> None:
    port = free_port(0)  # nobody listens there yet
    with running(home, f"json://127.0.0.1:{port}/hook") as pid:
        store = Store(home.settings)
        wait_until(lambda: any(progress.failures for progress in store.read().channels.values()))
        wait_until(lambda: written(home) == ["opened"])
        os.kill(pid, signal.SIGKILL)
    (home.settings.home / "alerts.json.damaged-1").unlink()  # and the problem ends while nobody looks
    with webhook(port) as hook, running(home, hook.url):
        wait_until(lambda: len(heard(hook)) == 2)
        wait_until(lambda: not store.read().outbox)
        assert heard(hook) == [
            f"[warning] {KIND}: alerts.json.damaged-1",
            f"[recovered] {KIND}: alerts.json.damaged-1",
        ]
    assert written(home) == ["opened", "resolved"]


@pytest.mark.integration
def test_kill_between_the_answer_and_the_mark_repeats_a_message_under_its_id(home: Home) -> None:
    """At least once begins here: nobody but the receiver knows that the message has arrived."""
    with webhook() as hook:
        with running(home, hook.url) as pid:
            hook.on_request = lambda: os.kill(pid, signal.SIGKILL) if hook.asked == 1 else None
            wait_until(lambda: len(heard(hook)) == 1)
        with running(home, hook.url):
            wait_until(lambda: len(heard(hook)) == 2)
            wait_until(lambda: not Store(home.settings).read().outbox)
        first, again = (body["message"] for body in hook.received if KIND in body["title"])
        assert first == again
    assert written(home) == ["opened"], "the file has it once all the same"


@pytest.mark.integration
def test_monitor_stops_at_once_when_asked_and_says_what_it_tells(home: Home) -> None:
    with webhook() as hook:
        home.variables["ECOMMERSSS_ALERTS"] = hook.url
        process = home.start("alerts", "run")
        wait_until(lambda: len(heard(hook)) == 1)
        assert monitor_problem(home.settings) is None
        began = time.monotonic()
        process.terminate()
        _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert time.monotonic() - began < 5
    assert "telling log, alerts.jsonl, json (URL 1)" in log
    assert f"[warning] {KIND}: alerts.json.damaged-1: " in log


def test_wrong_url_ends_the_monitor_with_a_message(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", ECOMMERSSS_ALERTS="slack://s3cret/x")
    error = home.call("alerts", "run", exit_code=1).stderr
    assert "URL 1, slack://..., is not one" in error
    assert "s3cret" not in error


def test_monitor_tells_what_opens_and_what_is_over(tmp_path: Path) -> None:
    settings, stop = Settings(home=tmp_path), threading.Event()
    looks = [[Problem("postgres_down", "PostgreSQL", "it does not answer")], []]

    def look(_: Settings, now: datetime) -> Observation:
        found = looks.pop(0)
        if not looks:
            stop.set()
        return Observation(found)

    monitor.run(settings, stop, interval=0.01, look=look)
    told = [(line["event"], line["alert"]) for line in lines(settings.alerts_path)]
    if len(told) < 2:  # the end came first: the next monitor has it in its outbox
        stop.clear()
        looks[:] = [[]]
        monitor.run(settings, stop, interval=0.01, look=look)
        told = [(line["event"], line["alert"]) for line in lines(settings.alerts_path)]
    assert told == [("opened", "postgres_down"), ("resolved", "postgres_down")]


def test_command_tells_its_runs_and_leaves_other_problems_to_the_monitor(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    stalled, failed = Problem("consumer_stalled", "consumer", "it stands"), Problem("run_failed", "job", "x")

    def look(*problems: Problem) -> Callable[[Settings, datetime], Observation]:
        return lambda _settings, _now: Observation(problems)

    tell_failed_runs(settings, look(stalled, failed))
    assert [line["alert"] for line in lines(settings.alerts_path)] == ["run_failed"]
    assert [entry.problem.kind for entry in Store(settings).read().open] == ["run_failed"]
    tell_failed_runs(settings, look(stalled))
    assert [line["event"] for line in lines(settings.alerts_path)] == ["opened", "resolved"]


def test_command_is_not_harmed_by_alerts_that_cannot_be_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path, alerts="slack://s3cret/x")  # type: ignore[arg-type]
    tell_failed_runs(settings, lambda _settings, _now: Observation())
    [said] = [record.getMessage() for record in caplog.records if record.name == "ecommersss.alerts"]
    assert said.startswith("no alert was told: ECOMMERSSS_ALERTS: URL 1, slack://...")
    assert "s3cret" not in said
    assert not logging.getLogger("apprise").propagate, "it shows more"


def test_monitor_is_healthy_while_it_looks(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    error = home.call("health", "monitor", exit_code=1)
    assert "no monitor has looked at the platform yet" in error.stdout
    stop = threading.Event()

    def look(_settings: Settings, _now: datetime) -> Observation:
        stop.set()
        return Observation()

    monitor.run(home.settings, stop, look=look)
    assert monitor_problem(home.settings) is None
    assert monitor_problem(home.settings, time.time() + PATIENCE + 5) == (
        f"the monitor has not looked at the platform for {PATIENCE + 5:.0f} s"
    )
    assert "healthy" in home.call("health", "monitor").stdout
