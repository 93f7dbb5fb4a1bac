"""The whole embedded platform as one set of supervised processes: what `ecommersss up` does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from ecommersss_platform.alerts.channels import channels
from ecommersss_platform.environment import MARK, child_environment
from ecommersss_platform.instance.code_server import LOCATION
from ecommersss_platform.instance.databases import (
    dagster_storage,
    database_url,
    embedded_server,
    operational_database,
)
from ecommersss_platform.instance.home import record_first_day, ui_token
from ecommersss_platform.local import ui
from ecommersss_platform.local.accounts import Account
from ecommersss_platform.local.first_run import first_run_history
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.local.logfiles import shown
from ecommersss_platform.local.ports import HOST, free_port, listener
from ecommersss_platform.local.postgres import DAGSTER, EmbeddedPostgres
from ecommersss_platform.local.processes import created, end_processes, is_same, still_alive
from ecommersss_platform.local.sockets import accepts, make_socket_directory
from ecommersss_platform.local.supervision import Child, Process, State, Supervisor, leftovers
from ecommersss_platform.local.whole_files import replace_file
from ecommersss_platform.settings import Settings
from ecommersss_platform.signals import on_signals
from ecommersss_platform.terminal import visible
from streaming.errors import PlatformError
from streaming.roles import Role

METRICS_PORT = 9464
"""Port of the consumer's metrics if no setting names one: this one, or the next free one."""

_STOP_SECONDS = 180.0
"""How long `stop` waits: each process has 20 seconds, and PostgreSQL a minute."""

_POSTGRES, _CONSUMER, _PRODUCER = "postgres", "consumer", "producer"
_CODE, _WEBSERVER, _DAEMON = "code", "webserver", "daemon"
_ALERTS = "alerts"

_CODE_SOCKET = "code.sock"


def prepare_home(settings: Settings) -> None:
    """Create what the platform needs and does not have yet. Idempotent.

    That is: the home with its first day, both databases, Dagster's home, and the parsed dbt project. The
    embedded server is started for it if it is not up: around several steps, hold it with
    `operational_database`.
    Raises `PlatformError`.
    """
    from ecommersss_platform.dbt.project import ensure_manifest, parsed_project
    from ecommersss_platform.instance.preparation import migrate_databases

    settings.check_pseudonym_key()
    record_first_day(settings)
    # Before the webserver and the daemon start: creating Dagster's tables, they get in each other's way.
    migrate_databases(settings)
    ensure_manifest(settings)
    parsed_project(settings)  # so that the first run need not


def up(settings: Settings, *, rate: float = 2.0, rhythm: bool = False, orders_per_day: int = 2000) -> int:
    """Start the whole platform in the foreground and keep it running until SIGINT, SIGTERM or SIGHUP.

    `rate`: simulated orders a second, 0 for no producer; with `rhythm` it is the average of a day.
    `orders_per_day`: in the history of a first run.
    Return the exit code: 0 after a clean end, 1 if the home is already up, 130 if interrupted before
    everything was started. Call it in the main thread. Raises `PlatformError` if preparing fails.
    """
    record_first_day(settings)
    if settings.alerts is not None:
        channels(settings)  # a URL that is none is said now
    lock = FileLock(settings.home / "up.lock")
    if not lock.acquire(wait=False):
        _print("up", _already_up(settings))
        return 1
    status = _StatusFile(settings)
    try:
        end_leftovers(settings)
        free_port(settings.ui_port)  # a port that can never be had is said now, not at each restart
        status.write("preparing")
        with ExitStack() as leases:
            with on_signals(_interrupt, signal.SIGTERM, signal.SIGHUP):
                # Both databases are on the embedded server unless settings name others.
                say = partial(_print, _POSTGRES)
                url = leases.enter_context(operational_database(settings, say, Role.SIMULATOR))
                dagster_url = leases.enter_context(dagster_storage(settings, say))
                _prepare_for_processes(settings, url, orders_per_day)
            _supervise(settings, status, dagster_url, rate, rhythm)
        _print("up", "stopped")
    except KeyboardInterrupt:
        _print(
            "up", "interrupted before everything was started; the next `ecommersss up` continues from here"
        )
        return 130
    finally:
        status.remove()
        lock.release()
    return 0


def running(settings: Settings) -> dict[str, Any] | None:
    """Return what the supervisor of this home has recorded about its processes, or None if there is none.

    Keys: `pid`, `started` (ISO 8601, UTC), `state` (preparing, starting, ready, stopping), `ui` (address, or
    None until it answers), `metrics` (address of the consumer's, or None), `processes`: rows with `name`,
    `pid`, `state`, `restarts`, `restarted_at` (the latest), `what`, `log`, `problem` (why it ended last,
    or None after a minute).
    """
    status = _read_status(settings)
    if status is None or not is_same(status["pid"], status["created"]):
        return None
    return {key: value for key, value in status.items() if key != "created"}


def stop(settings: Settings) -> str:
    """Stop the supervisor of this home with all its processes, wait for its end, and return what was done.

    If it was killed, end what it left. Raises `PlatformError` if it belongs to somebody else, or still runs
    after three minutes.
    """
    home, status = shown(settings.home), running(settings)
    if status is None:
        lock = FileLock(settings.home / "up.lock")
        if not settings.home.is_dir():
            return f"nothing runs in {home}: there is no such home"
        if not lock.acquire(wait=False):
            raise PlatformError(f"{_already_up(settings)}: try again in a moment")
        try:
            return _stop_leftovers(settings) or f"nothing runs in {home}"
        finally:
            lock.release()
    supervisor = psutil.Process(status["pid"])
    try:
        supervisor.terminate()
    except psutil.AccessDenied:
        raise PlatformError(
            f"process {supervisor.pid}, which runs {home}, belongs to another account: stop it as that one"
        ) from None
    if still_alive([supervisor], _STOP_SECONDS):
        raise PlatformError(
            f"process {supervisor.pid} has not stopped {home} after {_STOP_SECONDS:.0f} s:"
            f" its logs are in {shown(settings.logs_dir)}"
        )
    names = ", ".join(row["name"] for row in status["processes"] if row["pid"])
    return f"stopped {home}, process {supervisor.pid}" + (f", with {names}" if names else "")


def _stop_leftovers(settings: Settings) -> str | None:
    left = leftovers(str(settings.home))
    server = embedded_server(settings)
    if not left and server.pid() is None:
        return None
    end_leftovers(settings)
    if server.pid() is not None:
        with server.lease():  # stops it, unless another command uses it
            pass
    return f"stopped what an earlier `ecommersss up` of {shown(settings.home)} had left"


def end_leftovers(settings: Settings) -> None:
    """End what a killed supervisor of this home left behind. Only for the holder of the home's lock."""
    if left := leftovers(str(settings.home)):
        pids = ", ".join(str(process.pid) for process in left)
        _print("up", f"an earlier `ecommersss up` was killed; ending the processes that it left: {pids}")
        end_processes(left)


# The steps of `up`.


def _prepare_for_processes(settings: Settings, url: str, orders_per_day: int) -> None:
    from ecommersss_platform.instance.preparation import fail_dead_runs

    _print("up", f"preparing {shown(settings.home)}: database schemas, dbt manifest")
    prepare_home(settings)
    for run in fail_dead_runs(settings):
        _print("up", f"run {run} was interrupted when the platform went down; it is marked as failed")
    consumer_url = database_url(settings, Role.CONSUMER)
    first_run_history(settings, url, orders_per_day, partial(_print, "up"), consumer_url)


def _supervise(settings: Settings, status: _StatusFile, dagster_url: str, rate: float, rhythm: bool) -> None:
    if settings.metrics_port is None:
        # From here on every child has this setting, so the port stays the same when the consumer restarts.
        settings = settings.model_copy(update={"metrics_port": free_port(METRICS_PORT)})
    if settings.metrics_port:
        status.metrics = f"http://{HOST}:{settings.metrics_port}/metrics"
    interface = _Interface(settings.ui_port, ui_token(settings))
    server = None
    if settings.database_url is None or settings.dagster_url is None:
        server = _Server(embedded_server(settings), lambda: supervisor.stopping)

    def environment() -> dict[str, str]:
        # The server's port may have changed since the last start.
        url = server.postgres.url(DAGSTER) if server and settings.dagster_url is None else dagster_url
        return {
            **child_environment(settings, url),
            MARK: str(settings.home),
            "PYTHONSAFEPATH": "1",  # modules are those that are installed, not files of the home
            "PYTHONUNBUFFERED": "1",  # otherwise a log lacks its last lines after a crash
        }

    def changed() -> None:
        state = "stopping" if supervisor.stopping else "ready" if supervisor.ready else "starting"
        answering = interface.address if supervisor.state(_WEBSERVER) is State.READY else None
        status.write(state, answering, supervisor.rows())

    children = _children(settings, rate, rhythm, interface, environment, [_POSTGRES] if server else [])
    processes: list[Process] = [*([server] if server else []), *children]
    supervisor = Supervisor(processes, _print, changed=changed)
    with on_signals(supervisor.request_stop, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        announced = False
        try:
            while not supervisor.stopping:
                supervisor.tick()
                if server is not None and server.moved():
                    supervisor.restart([child.name for child in children], "PostgreSQL has another port now")
                if supervisor.ready and not announced:
                    announced = True
                    _print("up", f"everything is ready: {interface.address} (Ctrl-C stops everything)")
                time.sleep(0.2)
            _print("up", "stopping")
        finally:
            changed()
            supervisor.stop()
            # What the children left, such as runs, while their database is still up.
            end_processes(leftovers(str(settings.home)))


def _interrupt() -> None:
    raise KeyboardInterrupt


# The processes.


def _children(
    settings: Settings,
    rate: float,
    rhythm: bool,
    interface: _Interface,
    environment: Callable[[], Mapping[str, str]],
    database: Sequence[str],
) -> list[Child]:
    """Return the platform's own processes in the order of starting. `database`: what all of them need."""

    def child(
        name: str,
        what: str,
        *arguments: str | Callable[[], str],
        after: Sequence[str] = (),
        ready: Callable[[float], bool] | None = None,
        stops_with_descendants: bool = False,
    ) -> Child:
        return Child(
            name,
            what,
            command=lambda: [sys.executable, "-m", *(a if isinstance(a, str) else a() for a in arguments)],
            environment=environment,
            log=settings.logs_dir / f"{name}.log",
            directory=settings.home,
            after=[*database, *after],
            ready=ready,
            stops_with_descendants=stops_with_descendants,
        )

    # It needs no other process: it has to tell that they are down.
    alerts = replace(
        child(_ALERTS, "tells what is wrong", "ecommersss_platform.cli", "alerts", "run"), after=()
    )
    code_socket = make_socket_directory(settings.home, _CODE_SOCKET, Account()) / _CODE_SOCKET
    cli, workspace = "ecommersss_platform.cli", ["-w", str(_write_workspace(settings, code_socket))]
    consumer = child(_CONSUMER, "flags orders and stores them", cli, "consume")
    simulation = f"simulates {rate:g} orders a second" + (", on the average of a day" if rhythm else "")
    produce = ["produce", "--rate", str(rate), *(["--rhythm"] if rhythm else [])]
    producer = child(_PRODUCER, simulation, cli, *produce, after=[_CONSUMER])
    code = child(
        _CODE,
        "Dagster code server, starts runs",
        "ecommersss_platform.instance.code_server",
        str(code_socket),
        ready=lambda _: accepts(code_socket),
        stops_with_descendants=True,  # asked alone, it would wait for the runs that it has started
    )
    webserver = child(
        _WEBSERVER,
        "Dagster UI",
        "ecommersss_platform.instance.webserver",
        *("-h", HOST, "-p"),
        lambda: str(interface.choose()),
        *workspace,
        after=[_CODE],
        ready=lambda _: interface.answers() and interface.has_loaded_code(),
    )
    daemon = child(
        _DAEMON,
        "Dagster schedules, sensors and run queue",
        "dagster._daemon",
        "run",
        *workspace,
        after=[_CODE],
        ready=lambda started: ui.daemons_beat(interface.port, interface.token, started),
    )
    return [alerts, consumer, *([producer] if rate > 0 else []), code, webserver, daemon]


def _write_workspace(settings: Settings, code_socket: Path) -> Path:
    """Write the workspace file that leads to the shared code server, and return its path."""
    server = {"socket": str(code_socket), "location_name": LOCATION}
    path = settings.dagster_home / "workspace.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"load_from": [{"grpc_server": server}]}) + "\n")  # JSON is YAML
    return path


class _Interface:
    """The address of the Dagster UI. Its port is the wanted one, or the next free one if that is taken."""

    def __init__(self, wanted: int, token: str) -> None:
        self.port, self.token = wanted, token
        self._said = False

    @property
    def address(self) -> str:
        """The address with the secret that the UI asks for: a browser keeps it in a cookie."""
        return f"http://{HOST}:{self.port}/?token={quote(self.token, safe='')}"

    def choose(self) -> int:
        """Return the port for a webserver that is about to start, the same as before if possible."""
        wanted, self.port, self._said = self.port, free_port(self.port), False
        if wanted not in (0, self.port):
            _print(_WEBSERVER, f"port {wanted} is taken by {listener(wanted)}, using {self.port} instead")
        return self.port

    def answers(self) -> bool:
        """Return whether the UI answers, and say its address when it first does."""
        if not self._said and ui.answers(self.port):
            self._said = True
            _print(_WEBSERVER, f"Dagster UI: {self.address}")
        return self._said

    def has_loaded_code(self) -> bool:
        return ui.has_loaded_code(self.port, self.token)


@dataclass
class _Server:
    """The embedded server as a supervised process. The end of its last lease stops it, not the supervisor."""

    postgres: EmbeddedPostgres
    cancelled: Callable[[], bool]
    name: str = _POSTGRES
    what: str = "embedded PostgreSQL"
    after: Sequence[str] = ()
    stop_timeout: float = 0.0
    kept: bool = True
    _port: int | None = None

    def __post_init__(self) -> None:
        self.log = self.postgres.log
        self.pid, self.is_ready = self.postgres.pid, self.postgres.ready

    def start(self) -> None:
        self.postgres.up(partial(_print, self.name), cancelled=self.cancelled)
        self.what = f"embedded PostgreSQL, port {self.postgres.port()}"

    def ending(self) -> str:
        return "died"

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None: ...

    def moved(self) -> bool:
        """Return whether the port has changed since the last call."""
        before, self._port = self._port, self.postgres.port()
        return before not in (None, self._port)


# What other processes can read about it.


class _StatusFile:
    """The file `up.json` in the home: replaced at each change, removed after a clean end."""

    def __init__(self, settings: Settings) -> None:
        self._path = _status_path(settings)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self.metrics: str | None = None

    def write(self, state: str, url: str | None = None, rows: Sequence[dict[str, Any]] = ()) -> None:
        content = {
            "pid": os.getpid(),
            "created": created(os.getpid()),
            "started": self._started,
            "state": state,
            "ui": url,
            "metrics": self.metrics,
            "processes": list(rows),
        }
        # For the owner only: the address holds the UI's secret.
        replace_file(self._path, (json.dumps(content, indent=2) + "\n").encode())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _status_path(settings: Settings) -> Path:
    return settings.home / "up.json"


def _read_status(settings: Settings) -> dict[str, Any] | None:
    try:
        return dict(json.loads(_status_path(settings).read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _already_up(settings: Settings) -> str:
    status = running(settings)
    if status is None:
        return f"another `ecommersss up` is just starting or stopping {shown(settings.home)}"
    pid, where = status["pid"], status["ui"] or "not answering yet"
    return (
        f"{shown(settings.home)} is already up since {status['started']}, process {pid}. Dagster UI: {where}."
        f" `ecommersss status` shows more, and `ecommersss stop` stops it."
    )


def _print(name: str, text: str) -> None:
    """Print a line on the console: time of day, process, message."""
    # A closed console (SIGHUP) must not keep the platform from stopping.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{datetime.now().astimezone():%H:%M:%S}  {name:<10} {visible(text)}\n")
        sys.stdout.flush()
