"""Other processes on this machine: whether they run, since when, and how to end them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence

import psutil

from streaming.errors import PlatformError


def is_alive(process: psutil.Process) -> bool:
    """Return whether the process runs. A zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def created(pid: int) -> float | None:
    """Return when the process was created, in epoch seconds, or None if there is no such process."""
    try:
        process = psutil.Process(pid)
        return process.create_time() if is_alive(process) else None
    except psutil.Error:
        return None


def is_same(pid: int, created_at: float) -> bool:
    """Return whether the process is the one created at that time, and not a later one with the same id.

    Creation times are derived from the boot time, which moves a little when the clock is set.
    """
    now = created(pid)
    return now is not None and abs(now - created_at) < 2.0


def still_alive(processes: Sequence[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until all processes have ended, at most `timeout` seconds, and return those that have not."""
    deadline = time.monotonic() + timeout
    while (left := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def end_processes(processes: Sequence[psutil.Process], timeout: float = 20.0) -> None:
    """Ask the processes to end, and kill those that have not ended after `timeout` seconds.

    `timeout` 0 kills them at once. Raises `PlatformError` if a killed process does not end in ten seconds.
    """
    for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
        if patience > 0:
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
            processes = still_alive(processes, patience)
    if processes:
        raise PlatformError(f"processes do not end: {[process.pid for process in processes]}")
