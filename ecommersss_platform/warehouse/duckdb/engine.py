"""Opening the DuckDB file: one writer at a time, waiting with back-off, naming who holds it.

DuckDB lets one process write at a time, and none read meanwhile. So the file is open only during work, and
whoever finds it taken waits until a deadline.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ecommersss_platform.warehouse.errors import TableNotFound, WarehouseBusy, WarehouseError
from streaming.errors import first_line

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5

# One writing thread for each file: DuckDB itself would let two threads of a process share it.
_writers: dict[Path, threading.Lock] = {}
_writers_guard = threading.Lock()


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
    patience: float = 300.0

    def check_exists(self) -> None:
        """Raise TableNotFound if nothing has been published yet."""
        if not self.path.exists():
            raise TableNotFound(
                f"there is no warehouse at {self.path} yet: materialise a day first "
                "(`ecommersss materialize --from DAY --to DAY`, or from the Dagster UI)"
            )

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file to write; create it if it is missing. Raises WarehouseBusy, WarehouseError."""
        deadline = time.monotonic() + self.patience
        with _writers_guard:
            lock = _writers.setdefault(self.path.resolve(), threading.Lock())
        if not lock.acquire(timeout=self.patience):
            raise WarehouseBusy(
                f"{self.path}: another thread of this process wrote for over {self.patience:g} s"
            )
        try:
            with closing(self._open(read_only=False, deadline=deadline)) as connection:
                yield connection
        finally:
            lock.release()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file to read. Raises TableNotFound, WarehouseBusy, WarehouseError."""
        self.check_exists()
        deadline = time.monotonic() + self.patience
        with closing(self._open(read_only=True, deadline=deadline)) as connection:
            yield connection

    def _open(self, *, read_only: bool, deadline: float) -> duckdb.DuckDBPyConnection:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": self.memory if read_only else f"{self.writing_megabytes}MB",
            "threads": str(self.threads),
            "preserve_insertion_order": "false",
        }
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only, config=config)
            except duckdb.Error as error:
                if not is_taken(str(error)):
                    raise WarehouseError(f"{self.path} could not be opened: {first_line(error)}") from error
                if time.monotonic() >= deadline:
                    raise WarehouseBusy(busy_message(self.path, str(error), self.patience)) from error
                time.sleep(min(random.uniform(0, pause), max(0.0, deadline - time.monotonic())))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                connection.execute("SET TimeZone = 'UTC'")
                return connection


def is_taken(message: str) -> bool:
    """Return whether another process has the file open, or this one in the other mode."""
    return "Could not set lock on file" in message or "with a different configuration" in message


def busy_message(path: Path, message: str, waited: float) -> str:
    holder = re.search(r"held in (.+?) \(PID (\d+)\)", message)
    who = f"process {holder[2]} ({holder[1]})" if holder else "another connection of this process"
    return f"{path} was held by {who} for over {waited:g} s: wait until it is done, or end it, and run again"
