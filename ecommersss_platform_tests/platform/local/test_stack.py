"""`ecommersss up` as a process of its own, with small stand-ins for the platform's children."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from ecommersss_platform.instance.databases import database_url, embedded_server
from ecommersss_platform.instance.home import record_first_day
from ecommersss_platform.local import first_run as history
from ecommersss_platform.local import stack
from ecommersss_platform.local.postgres import NotUp
from ecommersss_platform.settings import Settings
from ecommersss_platform.topics import orders_topic

pytestmark = pytest.mark.integration

# The children of this `up` are of the real kind, only what they do is not: the consumer has a process of its
# own, as Dagster has for runs; the webserver answers as Dagster's does; the producer logs and waits.
UP = """
import sys
from pathlib import Path
from ecommersss_platform.local import stack
from ecommersss_platform.local.supervision import Child
from ecommersss_platform.settings import Settings

CONSUMER = '''
import os, subprocess, sys, time
print("consuming from", os.environ["ECOMMERSSS_HOME"], flush=True)
print("dagster at", os.environ["ECOMMERSSS_DAGSTER_URL"], flush=True)
print("metrics on", os.environ["ECOMMERSSS_METRICS_PORT"], flush=True)
run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("run", run.pid, flush=True)
time.sleep(600)
'''
PRODUCER = '''
import time
print("last words", flush=True)
time.sleep(600)
'''
WEBSERVER = '''
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"dagster_webserver_version": "0"}')
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''

def children(settings, rate, interface, environment, database):
    def child(name, script, after=(), ready=None, arguments=lambda: []):
        return Child(
            name, f"stand-in {name}", lambda: [sys.executable, "-c", script, *arguments()], environment,
            settings.logs_dir / f"{name}.log", after=[*database, *after], ready=ready, settles_in=0.2,
        )
    return [
        child("consumer", CONSUMER),
        child("producer", PRODUCER, after=["consumer"]),
        child("webserver", WEBSERVER, ready=lambda _: interface.answers(),
              arguments=lambda: [str(interface.choose())]),
    ]

stack._children = children
exec(sys.argv[1])
sys.exit(stack.up(Settings()))
"""
NOTHING_TO_PREPARE = "stack._prepare_for_processes = lambda *arguments: None"


class Up:
    """A running `ecommersss up`."""

    def __init__(self, home: Path, setup: str, **settings: str) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("ECOMMERSSS_")
        }
        self.output = home.parent / f"{home.name}-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", UP, setup],
                env={**environment, "ECOMMERSSS_HOME": str(home), "ECOMMERSSS_UI_PORT": "0", **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home.parent,
            )

    def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.home / "up.json").read_text()))
        except FileNotFoundError:
            return {}

    def text(self) -> str:
        return self.output.read_text()

    def wait(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, (status, self.text())
            assert self.process.poll() is None, self.text()
            time.sleep(0.05)
        return status

    def ready(self) -> dict[str, Any]:
        return self.wait(lambda status: status.get("state") == "ready" and status["pid"] == self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts `up` on a home of the test's; what is still there after the test is ended."""
    started: list[Up] = []

    def _start(setup: str = NOTHING_TO_PREPARE, **settings: str) -> Up:
        # Two databases by URL: no embedded server is needed.
        urls = {
            "ECOMMERSSS_DATABASE_URL": "postgresql://unused",
            "ECOMMERSSS_DAGSTER_URL": "postgresql://dagster",
        }
        started.append(Up(tmp_path / "home", setup, **{**urls, **settings}))
        return started[-1]

    yield _start
    for up in started:
        if up.process.poll() is None:
            up.stop()
    left = stack.leftovers(str(tmp_path / "home"), [])
    for process in left:
        process.kill()
    server = embedded_server(Settings(home=tmp_path / "home"))
    server.down()


def of(status: dict[str, Any], name: str) -> dict[str, Any]:
    [row] = [row for row in status["processes"] if row["name"] == name]
    return dict(row)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_up_says_what_runs_where_and_stops_everything_in_order(start: Callable[..., Up]) -> None:
    up = start()
    status = up.ready()
    assert [(row["name"], row["state"], row["restarts"]) for row in status["processes"]] == [
        ("consumer", "ready", 0),
        ("producer", "ready", 0),
        ("webserver", "ready", 0),
    ]
    # One line for each process: its name, its id, what it is, where it logs.
    for row in status["processes"]:
        name = row["name"]
        line = rf"^[\d:]{{8}}  {name:<10} process {row['pid']}: stand-in {name}, log home/logs/{name}\.log$"
        assert len(re.findall(line, up.text(), re.M)) == 1, up.text()
    up.wait(lambda status: f"everything is ready: {status['ui']}" in up.text())
    port = int(status["ui"].rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    log = (up.home / "logs" / "consumer.log").read_text()
    assert f"consuming from {up.home}\ndagster at postgresql://dagster\n" in log

    settings = Settings(home=up.home)
    seen = stack.running(settings)
    assert seen is not None
    assert seen["pid"] == up.process.pid
    assert seen["ui"] == status["ui"]

    run = int(re.search(r"^run (\d+)$", log, re.M)[1])  # type: ignore[index]
    pids = [run, *(row["pid"] for row in status["processes"])]
    assert up.stop() == 0
    assert all(gone(pid) for pid in pids)
    assert up.text().index("producer   stopped") < up.text().index("consumer   stopped")
    assert up.text().splitlines()[-1].endswith("up         stopped")
    assert not (up.home / "up.json").exists()
    assert stack.running(settings) is None


@pytest.mark.parametrize("given", ["", "45671", "0"])
def test_the_consumer_gets_a_port_for_its_metrics_and_the_status_says_which(
    start: Callable[..., Up], given: str
) -> None:
    up = start(**({"ECOMMERSSS_METRICS_PORT": given} if given else {}))
    status = up.ready()
    [port] = re.findall(r"^metrics on (\d+)$", (up.home / "logs" / "consumer.log").read_text(), re.M)
    assert status["metrics"] == (None if given == "0" else f"http://127.0.0.1:{port}/metrics")
    assert port == given if given else int(port) >= stack.METRICS_PORT


def test_ctrl_c_stops_it_too_and_a_second_one_does_not_wait(start: Callable[..., Up]) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    up = start(f"{NOTHING_TO_PREPARE}\nglobals()['PRODUCER'] = {stubborn!r} + PRODUCER")
    up.ready()
    up.process.send_signal(signal.SIGINT)
    up.wait(lambda status: status.get("state") == "stopping")
    time.sleep(0.5)
    began = time.monotonic()
    assert up.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 15  # it would have been waited for for 20 seconds
    assert "producer   did not end in" in up.text()


def test_a_second_up_says_where_the_first_one_is(start: Callable[..., Up]) -> None:
    first = start()
    status = first.ready()
    second = start()
    assert second.process.wait(timeout=60) == 1
    assert (
        f"is already up since {status['started']}, process {first.process.pid}. Dagster UI: {status['ui']}"
        in second.text()
    )
    assert first.status() == status


def test_a_dead_child_is_started_again_and_said_so(start: Callable[..., Up]) -> None:
    up = start()
    pid = of(up.ready(), "producer")["pid"]
    os.kill(pid, signal.SIGKILL)
    status = up.wait(lambda status: of(status, "producer")["restarts"] == 1 and status["state"] == "ready")
    assert of(status, "producer")["pid"] not in (None, pid)
    assert of(status, "consumer")["restarts"] == 0
    text = up.text()
    assert re.search(r"producer   killed by SIGKILL, \d+ s after its start; starting it again in 1 s\.", text)
    assert re.search(r"The end of home/logs/producer\.log:\n    last words\n", text)


def test_a_child_that_keeps_failing_is_tried_less_and_less_often(start: Callable[..., Up]) -> None:
    up = start(f"{NOTHING_TO_PREPARE}\nglobals()['PRODUCER'] = 'import sys; sys.exit(\"no orders left\")'")
    up.wait(lambda status: bool(status.get("processes")) and of(status, "producer")["restarts"] == 3)
    waits = re.findall(
        r"producer   ended with exit code 1, 0 s after its start; starting it again in (\d+) s", up.text()
    )
    assert waits[:3] == ["1", "2", "4"]
    assert up.text().count("    no orders left\n") == len(waits)


@pytest.mark.faults
def test_what_a_killed_supervisor_leaves_is_ended_by_the_next(start: Callable[..., Up]) -> None:
    first = start()
    status = first.ready()
    run = int(re.search(r"^run (\d+)$", (first.home / "logs/consumer.log").read_text(), re.M)[1])  # type: ignore[index]
    pids = [run, *(row["pid"] for row in status["processes"])]
    first.process.kill()
    first.process.wait()
    assert not any(gone(pid) for pid in pids)
    assert stack.running(Settings(home=first.home)) is None
    second = start()
    again = second.ready()
    assert all(gone(pid) for pid in pids)
    assert not {row["pid"] for row in again["processes"]} & set(pids)
    assert "an earlier `ecommersss up` was killed" in second.text()


@pytest.mark.faults
def test_leftovers_are_found_by_what_was_written_down_but_never_a_stranger(start: Callable[..., Up]) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        created = psutil.Process(child.pid).create_time()
        # The stranger has the id of a child that was created long before it.
        noted = [(stranger.pid, created - 3600), (child.pid, created)]
        assert [process.pid for process in stack.leftovers("no such mark", noted)] == [child.pid]
    finally:
        for process in (stranger, child):
            process.kill()
            process.wait()


def test_a_taken_ui_port_is_said_with_who_has_it_and_the_next_one_is_used(start: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start(ECOMMERSSS_UI_PORT=str(port))
        status = up.ready()
        used = int(status["ui"].rpartition(":")[2])
        assert port < used <= port + 50
        assert re.search(rf"port {port} is taken by .*process {os.getpid()}, using {used} instead", up.text())


def test_an_interrupted_preparation_leaves_nothing_running(start: Callable[..., Up]) -> None:
    up = start("stack._prepare_for_processes = lambda *arguments: __import__('time').sleep(600)")
    up.wait(lambda status: status.get("state") == "preparing")
    time.sleep(0.3)
    assert up.stop(signal.SIGTERM) == 130
    assert "the next `ecommersss up` goes on from here" in up.text()
    assert up.status() == {}
    assert stack.leftovers(str(up.home), []) == []


def test_the_lock_is_free_again_after_a_kill(start: Callable[..., Up]) -> None:
    up = start()
    up.wait(lambda status: status != {})
    up.process.kill()
    up.process.wait()
    assert start().ready()["state"] == "ready"


@pytest.mark.faults
def test_postgresql_is_brought_up_again_on_its_port_and_stopped_last(start: Callable[..., Up]) -> None:
    up = start(ECOMMERSSS_DATABASE_URL="", ECOMMERSSS_DAGSTER_URL="")
    status = up.ready()
    settings = Settings(home=up.home)
    server = embedded_server(settings)
    assert [row["name"] for row in status["processes"]] == ["postgres", "consumer", "producer", "webserver"]
    assert of(status, "postgres")["pid"] == server.pid()
    assert of(status, "postgres")["what"] == f"embedded PostgreSQL, port {server.port()}"
    url, pid = database_url(settings), server.pid()
    assert pid is not None
    postmaster = psutil.Process(pid)
    for process in [postmaster, *postmaster.children(recursive=True)]:
        process.kill()
    status = up.wait(lambda status: of(status, "postgres")["restarts"] == 1 and status["state"] == "ready")
    assert of(status, "consumer")["restarts"] == 0
    assert database_url(settings) == url
    psycopg2.connect(url).close()
    assert "postgres   died" in up.text()
    assert up.stop() == 0
    assert server.pid() is None
    with pytest.raises(NotUp, match="is not running: start the platform with `ecommersss up`"):
        database_url(settings)


def test_commands_beside_it_leave_its_postgresql_alone(start: Callable[..., Up]) -> None:
    up = start(ECOMMERSSS_DATABASE_URL="", ECOMMERSSS_DAGSTER_URL="")
    pid = of(up.ready(), "postgres")["pid"]
    with embedded_server(Settings(home=up.home)).lease() as server:
        assert server.pid() == pid
    assert server.pid() == pid
    with server.lease():
        assert up.stop() == 0
        assert server.ready()  # this test still uses it
    assert server.pid() is None


# The first run's history.


def past(home: Path) -> Settings:
    settings = Settings(home=home, first_day=(datetime.now(UTC) - timedelta(days=2)).date())
    record_first_day(settings)
    return settings


def count(url: str, table: str) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        return int(cursor.fetchone()[0])


def test_a_first_run_has_a_past_and_a_later_one_adds_none(tmp_path: Path, database: str) -> None:
    settings, said = past(tmp_path), list[str]()
    history.first_run_history(settings, database, 20, said.append)
    end = orders_topic(settings).end()
    users = count(database, "users")
    assert end > 0
    assert users > 0
    assert said[0] == "first run: simulating the marketplace's past"
    history.first_run_history(settings, database, 20, said.append)
    assert (orders_topic(settings).end(), count(database, "users")) == (end, users)
    assert len(said) == 2


@pytest.mark.faults
def test_a_first_run_that_was_interrupted_is_completed(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streaming.simulator import history as simulation

    settings, said = past(tmp_path), list[str]()
    publish = simulation.publish_hours

    def killed(topic: Any, hours: Any, **arguments: Any) -> int:
        publish(topic, itertools.islice(hours, 40), **arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "publish_hours", killed)
    with pytest.raises(KeyboardInterrupt):
        history.first_run_history(settings, database, 20, said.append)
    begun = orders_topic(settings).end()
    assert begun > 0
    monkeypatch.setattr(simulation, "publish_hours", publish)
    history.first_run_history(settings, database, 20, said.append)
    assert "an earlier first run was interrupted: completing the marketplace's past" in said
    topic = orders_topic(settings)
    assert topic.end() > begun
    lines = topic.reader(topic.start()).read(10_000, timeout=0.0).lines
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) > 1
    history.first_run_history(settings, database, 20, said.append)
    assert topic.end() == orders_topic(settings).end()


def test_a_platform_with_orders_of_its_own_gets_no_invented_past(tmp_path: Path, database: str) -> None:
    settings = past(tmp_path)
    orders_topic(settings).publish([b"{}"])
    history.first_run_history(settings, database, 20, lambda _: None)
    assert count(database, "users") == 0
    assert orders_topic(settings).end() == 3
