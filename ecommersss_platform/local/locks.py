"""Locks between processes that a kill -9 never leaves behind: flock(2) on a file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self


class FileLock:
    """One open lock file. Each instance is a holder of its own, also within one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Take the lock, or change how it is held; False when others hold it and `wait` is false."""
        if self._file is None:
            # Not inherited by programs that are started: only this process holds the lock.
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(
                self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
            )
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._file is not None:
            # Said, not left to the closing: a forked copy of the descriptor would keep the lock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None

    @contextmanager
    def held(self, *, shared: bool = False) -> Iterator[Self]:
        """Hold the lock for the block, waiting for it."""
        try:
            self.acquire(shared=shared)
            yield self
        finally:
            self.release()
