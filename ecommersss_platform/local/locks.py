"""Locks between processes that end with their holder, even by kill -9: flock(2) on a file."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

NOTICE_SECONDS = 3.0
"""After how many seconds a process that waits says so."""


class FileLock:
    """A lock on one file. Each instance is a separate holder, even in the same process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock or change its mode. Return False if others hold it and `wait` is false."""
        if self._file is None:
            # Only this process holds the lock: programs that it starts do not inherit the file.
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, mode | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._file is not None:
            # Closing is not enough: a forked copy of the descriptor would keep the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None

    @contextmanager
    def held(self, waiting: Callable[[], object] | None = None) -> Iterator[Self]:
        """Wait for the lock, and hold it for the block. `waiting` is called once, after `NOTICE_SECONDS`."""
        try:
            deadline = time.monotonic() + NOTICE_SECONDS
            while waiting and not self.acquire(wait=False):
                if time.monotonic() >= deadline:
                    waiting()
                    break
                time.sleep(0.02)
            self.acquire()
            yield self
        finally:
            self.release()
