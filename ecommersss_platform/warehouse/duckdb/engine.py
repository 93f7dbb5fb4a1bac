"""Opening the DuckDB file: one writer at a time, waiting with back-off, naming who holds it.

DuckDB lets one process write at a time, and none read meanwhile. So the file is open only during work, and
whoever finds it taken waits: loads, queries, and dbt through its plugin.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb

from ecommersss_platform.warehouse.duckdb.catalog import CATALOG, is_attached
from ecommersss_platform.warehouse.errors import TableNotFound, WarehouseBusy, WarehouseError
from streaming.errors import first_line

PATIENCE = 300.0
"""How many seconds everybody waits for the file before giving up."""
NOTICE_SECONDS = 3.0
"""After how many seconds a waiting process says for whom it waits."""

_TAKEN = ("Could not set lock on file", "with a different configuration", "Unique file handle conflict")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_COMMAND_LENGTH = 80

_log = logging.getLogger("ecommersss.warehouse")

# One writing thread for each file: DuckDB itself would let two threads of a process share it.
_writers: dict[Path, threading.Lock] = {}
_writers_guard = threading.Lock()

T = TypeVar("T")


@dataclass(frozen=True)
class DuckDbFile:
    """How to open the file `path`: within which memory and threads, and how long to wait for it.

    `memory`, or `writing_megabytes` for a writer, bounds what DuckDB itself holds; beyond that it spills next
    to the file. `patience` is how many seconds to wait while another process has the file open.
    """

    path: Path
    memory: str = "128MB"
    writing_megabytes: int = 64
    threads: int = 2
    patience: float = PATIENCE

    def check_exists(self) -> None:
        """Raise TableNotFound if nothing has been published yet."""
        if not self.path.exists():
            raise TableNotFound(
                f"there is no warehouse at {self.path} yet: materialise a day first "
                "(`ecommersss materialize --last 7`, or from the Dagster UI)"
            )

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file to write; create it if it is missing. Raises WarehouseBusy, WarehouseError."""
        started = time.monotonic()
        with _writers_guard:
            lock = _writers.setdefault(self.path.resolve(), threading.Lock())
        notice = min(NOTICE_SECONDS, self.patience)
        if not lock.acquire(timeout=notice):
            if self.patience > notice:
                _log.warning(waiting_message(self.path, "another thread of this process", self.patience))
            if not lock.acquire(timeout=self.patience - notice):
                raise WarehouseBusy(
                    f"{self.path}: another thread of this process wrote for over {self.patience:g} s"
                )
        try:
            with closing(self._open(read_only=False, started=started)) as connection:
                yield connection
        finally:
            lock.release()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file to read. Raises TableNotFound, WarehouseBusy, WarehouseError."""
        self.check_exists()
        with closing(self._open(read_only=True, started=time.monotonic())) as connection:
            yield connection

    def _open(self, *, read_only: bool, started: float) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": self.memory if read_only else f"{self.writing_megabytes}MB",
            "threads": str(self.threads),
            "preserve_insertion_order": "false",
        }

        def connect() -> duckdb.DuckDBPyConnection:
            if not is_attached(self.path):
                return duckdb.connect(str(self.path), read_only=read_only, config=config)
            connection = duckdb.connect(":memory:", config=config | {"temp_directory": f"{self.path}.tmp"})
            try:
                attach(connection, self.path, read_only=read_only)
                return connection.execute(f"USE {CATALOG}")
            except BaseException:
                connection.close()
                raise

        connection = when_free(connect, self.path, self.patience, started)
        connection.execute("SET TimeZone = 'UTC'")
        return connection


def attach(connection: duckdb.DuckDBPyConnection, path: Path, *, read_only: bool = False) -> None:
    """Attach the file as `CATALOG`."""
    place = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{place}' AS {CATALOG}{' (READ_ONLY)' if read_only else ''}")


def when_free(
    connect: Callable[[], T],
    path: Path,
    patience: float = PATIENCE,
    started: float | None = None,
    warn: Callable[[str], object] = _log.warning,
) -> T:
    """Return what `connect` returns; while another process has the file, wait and call it again.

    After `NOTICE_SECONDS`, `warn` is called once with who has the file. `patience` is in seconds from
    `started` (of `time.monotonic`; default: now). Raises WarehouseBusy after it, and WarehouseError for a
    file that cannot be opened.
    """
    started = time.monotonic() if started is None else started
    deadline = started + patience
    warned = False
    pause = _FIRST_PAUSE
    while True:
        try:
            return connect()
        except duckdb.Error as error:
            if not is_taken(str(error)):
                raise WarehouseError(f"{path} could not be opened: {first_line(error)}") from error
            now = time.monotonic()
            if now >= deadline:
                raise WarehouseBusy(busy_message(path, str(error), patience)) from error
            if not warned and now - started >= NOTICE_SECONDS:
                warn(waiting_message(path, holder(str(error)), patience))
                warned = True
            time.sleep(min(random.uniform(0, pause), deadline - now))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)


def is_taken(message: str) -> bool:
    """Return whether another process has the file open, or this one in the other mode."""
    return any(part in message for part in _TAKEN)


def holder(message: str) -> str:
    """Return who has the file, from DuckDB's message: the process and its command."""
    found = re.search(r"held in (.+?) \(PID (\d+)\)", message)
    if not found:
        return "another connection of this process"
    return f"process {found[2]} ({_command(int(found[2])) or found[1]})"


def _command(pid: int) -> str:
    """Return the command line of a process, cut short; empty if the system does not show it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    text = " ".join(word for word in words if word)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= _COMMAND_LENGTH else f"{text[:_COMMAND_LENGTH]}..."


def waiting_message(path: Path, who: str, patience: float) -> str:
    return f"{path} is held by {who}: waiting for it, for at most {patience:g} s"


def busy_message(path: Path, message: str, waited: float) -> str:
    return (
        f"{path} was held by {holder(message)} for over {waited:g} s: wait until it is done, or end it,"
        " and run again"
    )
