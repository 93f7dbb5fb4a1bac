"""The whole embedded platform as one supervised set of processes: what `ecommersss up` does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ecommersss_platform.instance.dagster_home import ensure_dagster_home, environment
from ecommersss_platform.instance.databases import dagster_storage, embedded_server, operational_database
from ecommersss_platform.instance.home import record_first_day
from ecommersss_platform.local import ui
from ecommersss_platform.local.first_run import first_run_history
from ecommersss_platform.local.locks import FileLock
from ecommersss_platform.local.postgres import DAGSTER, EmbeddedPostgres
from ecommersss_platform.local.processes import created, end_processes, is_same
from ecommersss_platform.local.supervision import (
    MARK,
    Child,
    Process,
    State,
    Supervisor,
    leftovers,
    shown,
)
from ecommersss_platform.settings import Settings

WORKSPACE = Path(__file__).parents[2] / "workspace.yaml"

_POSTGRES, _CONSUMER, _PRODUCER, _WEBSERVER, _DAEMON = (
    "postgres",
    "consumer",
    "producer",
    "webserver",
    "daemon",
)
METRICS_PORT = 9464
"""Where the consumer's metrics are unless a setting says otherwise: here, or on the next free port."""


def prepare(settings: Settings) -> None:
    """Make what the platform needs and does not have yet. Idempotent.

    The home with its first day, Dagster's home, the marketplace's schema, dbt's manifest. The embedded
    server is started for it if it is not up: hold it with `operational_database` around several steps.
    Raises `PlatformError`.
    """
    from ecommersss_platform.dbt.project import prepare_manifest
    from streaming.database import migrate

    record_first_day(settings)
    ensure_dagster_home(settings)
    with operational_database(settings) as url:
        migrate(url)
    prepare_manifest(settings)


def up(settings: Settings, *, rate: float = 2.0, orders_per_day: int = 2000) -> int:
    """Start the whole platform in the foreground and keep it running until SIGINT, SIGTERM or SIGHUP.

    `rate`: simulated orders a second, 0 for no producer; `orders_per_day`: in the history of a first run.
    Returns the exit code: 1 when the home is already up, 0 after a clean end. For the main thread. Raises
    `PlatformError` when it cannot be prepared.
    """
    record_first_day(settings)
    lock = FileLock(settings.home / "up.lock")
    if not lock.acquire(wait=False):
        _tell("up", _already(settings))
        return 1
    try:
        return _up_locked(settings, rate, orders_per_day)
    finally:
        lock.release()


def running(settings: Settings) -> dict[str, Any] | None:
    """What the supervisor of this home says about its processes; None when there is none.

    Keys: `pid`, `started` (ISO 8601, UTC), `state` (preparing, starting, ready, stopping), `ui` (address, or
    None until it answers), `metrics` (address of the consumer's, or None), `processes`: rows with `name`,
    `pid`, `state`, `restarts`, `what`, `log`.
    """
    noted = _read_status(settings)
    if noted is None or not is_same(noted["pid"], noted["created"]):
        return None
    return {key: value for key, value in noted.items() if key not in ("created", "children")}


# The pieces of `up`.


class _Signals:
    """What was asked for from outside. Handlers only set flags: they can interrupt anything."""

    def __init__(self) -> None:
        self.count = 0
        self._on_second: Callable[[], None] = lambda: None

    @contextmanager
    def handled(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, self._received) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def on_second(self, action: Callable[[], None]) -> None:
        self._on_second = action

    def stop(self) -> bool:
        return self.count > 0

    def _received(self, number: int, frame: object) -> None:
        self.count += 1
        if self.count > 1:
            self._on_second()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, whatever it is waiting for."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _up_locked(settings: Settings, rate: float, orders_per_day: int) -> int:
    status = _Status(settings)
    end_leftovers(settings)
    status.write("preparing")
    try:
        with ExitStack() as leases:
            with _interruptible():
                # Both databases are on the embedded server unless settings say otherwise.
                url = leases.enter_context(operational_database(settings, _teller(_POSTGRES)))
                dagster_url = leases.enter_context(dagster_storage(settings, _teller(_POSTGRES)))
                _prepare_for_processes(settings, url, orders_per_day)
            _supervise(settings, status, dagster_url, rate)
        _tell("up", "stopped")
    except KeyboardInterrupt:
        _tell("up", "interrupted before everything was started; the next `ecommersss up` goes on from here")
        return 130
    finally:
        status.remove()
    return 0


def _prepare_for_processes(settings: Settings, url: str, orders_per_day: int) -> None:
    from ecommersss_platform.cli.prepare import fail_dead_runs, migrate_databases

    _tell("up", f"preparing {shown(settings.home)}: database schemas, dbt manifest")
    prepare(settings)
    # One process makes Dagster's tables: the webserver and the daemon would get in each other's way.
    migrate_databases(settings)
    for run in fail_dead_runs(settings):
        _tell("up", f"run {run} was interrupted when the platform went down; it is marked as failed")
    first_run_history(settings, url, orders_per_day, _teller("up"))


def _supervise(settings: Settings, status: _Status, dagster_url: str, rate: float) -> None:
    signals = _Signals()
    if settings.metrics_port is None:
        # From here on it is every child's setting, so that it stays the same when the consumer starts again.
        settings = settings.model_copy(update={"metrics_port": ui.free_port(METRICS_PORT)})
    if settings.metrics_port:
        status.metrics = f"http://{ui.HOST}:{settings.metrics_port}/metrics"
    server = _server(settings, signals.stop)
    interface = _Interface(settings.ui_port)

    def child_environment() -> dict[str, str]:
        url = server.postgres.url(DAGSTER) if server and settings.dagster_url is None else dagster_url
        return {**os.environ, **_variables(settings, url)}

    children = _children(settings, rate, interface, child_environment, [_POSTGRES] if server else [])
    processes: list[Process] = [*([server] if server else []), *children]

    def changed() -> None:
        state = "stopping" if signals.stop() else "ready" if supervisor.ready else "starting"
        answering = interface.url if supervisor.state(_WEBSERVER) is State.READY else None
        status.write(state, answering, supervisor.rows())

    supervisor = Supervisor(processes, _tell, changed=changed)
    signals.on_second(supervisor.hurry)
    with signals.handled():
        announced = False
        try:
            while not signals.stop():
                supervisor.tick()
                if server is not None and server.moved():
                    supervisor.restart([child.name for child in children], "PostgreSQL has another port now")
                if supervisor.ready and not announced:
                    announced = True
                    _tell("up", f"everything is ready: {interface.url} (Ctrl-C stops everything)")
                time.sleep(0.2)
            _tell("up", "stopping")
        finally:
            changed()
            supervisor.stop()
            # What the children started and left, such as runs: while the database is still there for them.
            end_processes(leftovers(str(settings.home), []))


def _variables(settings: Settings, dagster_url: str) -> dict[str, str]:
    return {
        **environment(settings, dagster_url),
        MARK: str(settings.home),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "PYTHONUNBUFFERED": "1",  # or a log's last lines are missing when they matter
    }


def _children(
    settings: Settings,
    rate: float,
    interface: _Interface,
    child_environment: Callable[[], Mapping[str, str]],
    database: Sequence[str],
) -> list[Child]:
    """The platform's own processes, in the order of starting. `database`: what they need to be up."""

    def child(
        name: str,
        what: str,
        arguments: Callable[[], Sequence[str]],
        after: Sequence[str] = (),
        ready: Callable[[float], bool] | None = None,
    ) -> Child:
        return Child(
            name,
            what,
            command=lambda: [sys.executable, "-m", *arguments()],
            environment=child_environment,
            log=settings.logs_dir / f"{name}.log",
            after=[*database, *after],
            ready=ready,
        )

    cli = "ecommersss_platform.cli"
    workspace = ["-w", str(WORKSPACE)]
    children = [
        child(_CONSUMER, "flags orders and stores them", lambda: [cli, "consume"]),
        child(
            _WEBSERVER,
            "Dagster UI",
            lambda: ["dagster_webserver", "-h", ui.HOST, "-p", str(interface.choose()), *workspace],
            ready=lambda _: interface.answers(),
        ),
        child(
            _DAEMON,
            "Dagster schedules, sensors and run queue",
            lambda: ["dagster._daemon", "run", *workspace],
            ready=lambda started: ui.daemons_beat(interface.port, started),
        ),
    ]
    if rate > 0:
        children.insert(
            1,
            child(
                _PRODUCER,
                f"simulates {rate:g} orders a second",
                lambda: [cli, "produce", "--rate", str(rate)],
                after=[_CONSUMER],
            ),
        )
    return children


class _Interface:
    """The Dagster UI's port: the wanted one, or another one, said once, where it is taken."""

    def __init__(self, wanted: int) -> None:
        self.port = wanted

    @property
    def url(self) -> str:
        return f"http://{ui.HOST}:{self.port}"

    def choose(self) -> int:
        """The port for a webserver that is about to start: the same as before if possible."""
        wanted, self.port = self.port, ui.free_port(self.port)
        if wanted not in (0, self.port):
            _tell(_WEBSERVER, f"port {wanted} is taken by {ui.listener(wanted)}, using {self.port} instead")
        return self.port

    def answers(self) -> bool:
        if not ui.answers(self.port):
            return False
        _tell(_WEBSERVER, f"Dagster UI: {self.url}")
        return True


@dataclass
class _Server:
    """The embedded server as a supervised process. Whoever leaves the last lease on it ends it."""

    postgres: EmbeddedPostgres
    cancelled: Callable[[], bool]
    name: str = _POSTGRES
    what: str = "embedded PostgreSQL"
    after: Sequence[str] = ()
    stop_timeout: float = 60.0
    kept: bool = True
    _port: int | None = None

    @property
    def log(self) -> Path:
        return self.postgres.log

    def start(self) -> None:
        self.postgres.up(_teller(self.name), cancelled=self.cancelled)
        self.what = f"embedded PostgreSQL, port {self.postgres.port()}"

    def pid(self) -> int | None:
        return self.postgres.pid()

    def is_ready(self) -> bool:
        return self.postgres.ready()

    def ending(self) -> str:
        return "died"

    def ask_to_stop(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def moved(self) -> bool:
        """Whether the port is another one than when this was last asked."""
        before, self._port = self._port, self.postgres.port()
        return before not in (None, self._port)


def _server(settings: Settings, cancelled: Callable[[], bool]) -> _Server | None:
    if settings.database_url is not None and settings.dagster_url is not None:
        return None
    return _Server(embedded_server(settings), cancelled)


def end_leftovers(settings: Settings) -> None:
    """End what a supervisor of this home left when it was killed. Only for whoever holds the home's lock."""
    noted = _read_status(settings)
    known = [(pid, at) for pid, at in noted.get("children", [])] if noted else []
    left = leftovers(str(settings.home), known)
    if left:
        names = ", ".join(str(process.pid) for process in left)
        _tell("up", f"an earlier `ecommersss up` was killed; ending the processes that it left: {names}")
        end_processes(left)


# What others can read about it.


class _Status:
    """The file `up.json` in the home: written whole at each change, removed at a clean end."""

    def __init__(self, settings: Settings) -> None:
        self._path = _status_path(settings)
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self.metrics: str | None = None

    def write(self, state: str, url: str | None = None, rows: Sequence[dict[str, Any]] = ()) -> None:
        # The database server is not among them: it belongs to whoever holds a lease on it.
        pids = [row["pid"] for row in rows if row["name"] != _POSTGRES and row["pid"] is not None]
        text = json.dumps(
            {
                "pid": os.getpid(),
                "created": created(os.getpid()),
                "started": self._started,
                "state": state,
                "ui": url,
                "metrics": self.metrics,
                "processes": list(rows),
                "children": [(pid, at) for pid in pids if (at := created(pid)) is not None],
            },
            indent=2,
        )
        temporary = self._path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text + "\n")
        temporary.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _status_path(settings: Settings) -> Path:
    return settings.home / "up.json"


def _read_status(settings: Settings) -> dict[str, Any] | None:
    try:
        return dict(json.loads(_status_path(settings).read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _already(settings: Settings) -> str:
    noted = running(settings)
    if noted is None:
        return f"{shown(settings.home)} is just being started or stopped by another `ecommersss up`"
    pid, where = noted["pid"], f"Dagster UI: {noted['ui']}" if noted["ui"] else "the UI does not answer yet"
    return (
        f"{shown(settings.home)} is already up since {noted['started']}, process {pid}. {where}."
        f" `ecommersss status` tells more; Ctrl-C in its terminal, or `kill {pid}`, stops it."
    )


def _tell(name: str, text: str) -> None:
    """One line on the console: time of day, process, what there is to say."""
    # A console that is gone (SIGHUP) must not keep the platform from stopping.
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{datetime.now().astimezone():%H:%M:%S}  {name:<10} {text}\n")
        sys.stdout.flush()


def _teller(name: str) -> Callable[[str], None]:
    return lambda text: _tell(name, text)
