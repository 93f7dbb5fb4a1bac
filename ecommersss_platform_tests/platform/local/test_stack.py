"""`ecommersss up` as a process of its own, with small stubs for the platform's children.

`test_supervision.py` tests what the supervisor decides. A few real starts show here that it is wired up.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest

from ecommersss_platform.instance.databases import database_url, embedded_server
from ecommersss_platform.local import stack
from ecommersss_platform.local.postgres import EmbeddedPostgres, NotUp
from ecommersss_platform.local.supervision import leftovers
from ecommersss_platform.settings import Settings

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
print("dagster at", os.environ["ECOMMERSSS_DAGSTER_URL"].partition("?")[0], flush=True)
print("metrics on", os.environ["ECOMMERSSS_METRICS_PORT"], flush=True)
foreign = {"PGAPPNAME", "DBT_EMPTY", "DAGSTER_EVENT_BATCH_SIZE", "PYTHONWARNINGS"}
print("foreign:", sorted(foreign & os.environ.keys()), "working in", os.getcwd(), flush=True)
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

def children(settings, rate, rhythm, interface, environment, database):
    def child(name, script, after=(), ready=None, arguments=lambda: []):
        return Child(
            name, f"stub {name}", lambda: [sys.executable, "-c", script, *arguments()], environment,
            settings.logs_dir / f"{name}.log", settings.home,
            after=[*database, *after], ready=ready, settles_in=0.2,
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
                env={
                    **environment,
                    **dict.fromkeys(("PGAPPNAME", "DBT_EMPTY", "DAGSTER_EVENT_BATCH_SIZE"), "1"),
                    "PYTHONWARNINGS": "default",
                    "ECOMMERSSS_HOME": str(home),
                    "ECOMMERSSS_UI_PORT": "0",
                    **settings,
                },
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


@contextmanager
def starting(place: Path) -> Iterator[Callable[..., Up]]:
    """Yield a function that starts `up` on the home in `place`, and end what is left afterwards."""
    started: list[Up] = []

    def start(setup: str = NOTHING_TO_PREPARE, **settings: str) -> Up:
        # With two databases named, no embedded server is needed.
        urls = {
            "ECOMMERSSS_DATABASE_URL": "postgresql://unused",
            "ECOMMERSSS_DAGSTER_URL": "postgresql://dagster",
        }
        started.append(Up(place / "home", setup, **{**urls, **settings}))
        return started[-1]

    try:
        yield start
    finally:
        for up in started:
            if up.process.poll() is None:
                up.stop()
        for process in leftovers(str(place / "home")):
            process.kill()
        embedded_server(Settings(home=place / "home")).down()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    with starting(tmp_path) as start:
        yield start


def row(status: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [found for found in status["processes"] if found["name"] == name]
    return dict(found)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def consumer_log(up: Up) -> str:
    return (up.home / "logs" / "consumer.log").read_text()


def process_of_a_run(up: Up) -> int:
    [pid] = re.findall(r"^run (\d+)$", consumer_log(up), re.M)
    return int(pid)


# One `up`, whose port for the UI is taken, for several tests.


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, taken: int) -> Iterator[Up]:
    with starting(tmp_path_factory.mktemp("up")) as start:
        up = start(ECOMMERSSS_UI_PORT=str(taken))
        up.ready()
        yield up


def test_up_says_which_processes_run_and_where_they_log(up: Up) -> None:
    status = up.ready()
    assert [(row["name"], row["state"]) for row in status["processes"]] == [
        ("consumer", "ready"),
        ("producer", "ready"),
        ("webserver", "ready"),
    ]
    for row in status["processes"]:
        name = row["name"]
        line = rf"^[\d:]{{8}}  {name:<10} process {row['pid']}: stub {name}, log home/logs/{name}\.log$"
        assert len(re.findall(line, up.text(), re.M)) == 1, up.text()
    up.wait(lambda status: f"everything is ready: {status['ui']}" in up.text())
    assert f"consuming from {up.home}\ndagster at postgresql://dagster/\n" in consumer_log(up)


def test_children_do_not_see_the_variables_of_whoever_typed_the_command(up: Up) -> None:
    up.ready()
    # Where Dagster finds no `.env`, which would win over the settings.
    assert f"foreign: [] working in {up.home}\n" in consumer_log(up)


def test_taken_ui_port_is_said_with_who_has_it_and_the_next_free_one_is_used(up: Up, taken: int) -> None:
    used = int(urlsplit(up.ready()["ui"]).port or 0)
    assert taken < used <= taken + 50
    socket.create_connection(("127.0.0.1", used)).close()
    assert re.search(rf"port {taken} is taken by .*process {os.getpid()}, using {used} instead", up.text())


def test_consumer_gets_a_free_port_for_its_metrics_and_the_status_says_which(up: Up) -> None:
    [port] = re.findall(r"^metrics on (\d+)$", consumer_log(up), re.M)
    assert up.ready()["metrics"] == f"http://127.0.0.1:{port}/metrics"
    assert int(port) >= stack.METRICS_PORT


def test_others_can_ask_what_runs(up: Up) -> None:
    seen = stack.running(Settings(home=up.home))
    assert seen is not None
    assert (seen["pid"], seen["ui"]) == (up.process.pid, up.ready()["ui"])
    assert seen["ui"].endswith(f"/?token={(up.home / 'ui_token').read_text().strip()}")
    assert [(up.home / name).stat().st_mode & 0o077 for name in ("up.json", "ui_token")] == [0, 0]


def test_second_up_says_where_the_first_one_is(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    status = up.ready()
    assert stack.up(Settings(home=up.home)) == 1
    said = capsys.readouterr().out
    assert f"is already up since {status['started']}, process {up.process.pid}. " in said
    assert f"Dagster UI: {status['ui']}. " in said
    assert up.status() == status


def test_dead_child_is_restarted_and_its_last_words_are_shown(up: Up) -> None:
    pid = row(up.ready(), "producer")["pid"]
    os.kill(pid, signal.SIGKILL)
    status = up.wait(lambda status: row(status, "producer")["restarts"] == 1 and status["state"] == "ready")
    assert row(status, "producer")["pid"] not in (None, pid)
    assert row(status, "consumer")["restarts"] == 0
    assert re.search(
        r"producer   killed by SIGKILL, \d+ s after its start; restarting it in 1 s\."
        r" The end of home/logs/producer\.log:\n    last words\n",
        up.text(),
    )


def test_stop_stops_everything_in_order(up: Up) -> None:
    pids = [process_of_a_run(up), *(row["pid"] for row in up.ready()["processes"])]
    said = stack.stop(Settings(home=up.home))
    assert said.endswith(f"process {up.process.pid}, with consumer, producer, webserver")
    assert up.process.wait(timeout=1) == 0
    assert all(gone(pid) for pid in pids)
    assert up.text().index("producer   stopped") < up.text().index("consumer   stopped")
    assert up.text().splitlines()[-1].endswith("up         stopped")
    assert not (up.home / "up.json").exists()
    assert stack.running(Settings(home=up.home)) is None
    assert stack.stop(Settings(home=up.home)).startswith("nothing runs in ")


def test_stop_of_a_home_that_does_not_exist_makes_none(tmp_path: Path) -> None:
    assert "no such home" in stack.stop(Settings(home=tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


# Kills and signals.


@pytest.mark.faults
def test_next_up_ends_what_a_killed_one_left_and_a_second_ctrl_c_does_not_wait(
    start: Callable[..., Up],
) -> None:
    first = start(ECOMMERSSS_METRICS_PORT="0")
    status = first.ready()
    assert status["metrics"] is None
    pids = [process_of_a_run(first), *(row["pid"] for row in status["processes"])]
    first.process.kill()
    first.process.wait()
    assert not any(gone(pid) for pid in pids)
    assert stack.running(Settings(home=first.home)) is None

    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    second = start(f"{NOTHING_TO_PREPARE}\nglobals()['PRODUCER'] = {stubborn!r} + PRODUCER")
    again = second.ready()
    assert all(gone(pid) for pid in pids)
    assert not {row["pid"] for row in again["processes"]} & set(pids)
    assert "an earlier `ecommersss up` was killed" in second.text()

    second.process.send_signal(signal.SIGINT)
    second.wait(lambda status: status.get("state") == "stopping")
    time.sleep(0.5)
    began = time.monotonic()
    assert second.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 15  # otherwise it would have been waited for for 20 seconds
    assert "producer   did not end in" in second.text()


@pytest.mark.faults
def test_stop_ends_what_a_killed_up_left(
    start: Callable[..., Up], capsys: pytest.CaptureFixture[str]
) -> None:
    up = start()
    pids = [row["pid"] for row in up.ready()["processes"]]
    pids.append(process_of_a_run(up))
    up.process.kill()
    up.process.wait()
    said = stack.stop(Settings(home=up.home))
    assert said.startswith("stopped what an earlier `ecommersss up` of ")
    assert all(gone(pid) for pid in pids)
    assert "ending the processes that it left" in capsys.readouterr().out


def test_interrupted_preparation_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        home=tmp_path, database_url="postgresql://unused/a", dagster_url="postgresql://unused/b"
    )

    def interrupted(*arguments: object) -> None:
        running = stack.running(settings)
        assert running is not None
        assert running["state"] == "preparing"
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(stack, "_prepare_for_processes", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert stack.up(settings) == 130
    assert "the next `ecommersss up` continues from here" in capsys.readouterr().out
    assert stack.running(settings) is None
    assert leftovers(str(tmp_path)) == []
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.faults
def test_postgresql_is_restarted_on_its_port_and_stopped_with_its_last_lease(
    start: Callable[..., Up], tmp_path: Path, copy_server: Callable[[Path], EmbeddedPostgres]
) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir()
    copy_server(settings.postgres_dir)
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics = free.getsockname()[1]
    up = start(ECOMMERSSS_DATABASE_URL="", ECOMMERSSS_DAGSTER_URL="", ECOMMERSSS_METRICS_PORT=str(metrics))
    status = up.ready()
    assert status["metrics"] == f"http://127.0.0.1:{metrics}/metrics"
    assert f"metrics on {metrics}\n" in consumer_log(up)
    server = embedded_server(settings)
    assert [row["name"] for row in status["processes"]] == ["postgres", "consumer", "producer", "webserver"]
    assert row(status, "postgres")["pid"] == server.pid()
    assert row(status, "postgres")["what"] == f"embedded PostgreSQL, port {server.port()}"
    url, pid = database_url(settings), server.pid()
    with server.lease():
        pass
    assert server.pid() == pid  # commands beside it do not stop it

    postmaster = psutil.Process(pid)
    for process in [postmaster, *postmaster.children(recursive=True)]:
        process.kill()
    status = up.wait(lambda status: row(status, "postgres")["restarts"] == 1 and status["state"] == "ready")
    assert row(status, "consumer")["restarts"] == 0
    assert database_url(settings) == url
    psycopg2.connect(url).close()
    assert "postgres   died" in up.text()

    with server.lease():
        assert up.stop() == 0
        assert server.ready()  # this test still uses it
    assert server.pid() is None
    with pytest.raises(NotUp, match="is not running: start the platform with `ecommersss up`"):
        database_url(settings)


def test_every_child_is_a_module_that_python_can_run(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    children = stack._children(settings, 2.0, True, stack._Interface(0, "secret"), dict, ["postgres"])
    assert [child.name for child in children] == [
        *("alerts", "consumer", "producer", "code", "webserver", "daemon")
    ]
    assert children[0].after == (), "it has to tell that the others are down"
    assert list(children[2].command())[-4:] == ["produce", "--rate", "2.0", "--rhythm"]
    for child in children:
        python, option, module, *_ = child.command()
        assert (python, option) == (sys.executable, "-m")
        spec = importlib.util.find_spec(module)
        assert spec is not None
        if spec.submodule_search_locations is not None:
            assert importlib.util.find_spec(f"{module}.__main__") is not None, module
        else:
            assert '__name__ == "__main__"' in Path(str(spec.origin)).read_text(), module
