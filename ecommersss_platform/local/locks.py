"""Locks between processes that end with their holder, even by kill -9: flock(2) on a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self


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
    def held(self) -> Iterator[Self]:
        """Wait for the lock, and hold it for the block."""
        try:
            self.acquire()
            yield self
        finally:
            self.release()
