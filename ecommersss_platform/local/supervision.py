"""Keep processes running: start them in order, notice when one dies, start it again, stop them in order.

What to do is decided by `after_end` and `Supervisor.tick`, which know processes only through `Process` and
take the time from a clock, so that both can be driven by tests; `Child` is the real thing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import psutil

from ecommersss_platform.local.processes import is_same
from streaming.errors import PlatformError

Say = Callable[[str, str], None]
"""Told what happened: the process's name, and what there is to say about it."""

MARK = "ECOMMERSSS_SUPERVISED_BY"
"""In the environment of every supervised process and of all that these start: which home they belong to."""

_LOG_LIMIT = 10_000_000
_TAIL_LINES = 6


@dataclass(frozen=True)
class Backoff:
    """How long to wait, in seconds, before a process that ended is started again.

    Each failure in a row doubles the wait. A process that ran for `healthy_after` seconds starts over.
    """

    first: float = 1.0
    longest: float = 60.0
    healthy_after: float = 60.0


def after_end(backoff: Backoff, failures: int, uptime: float) -> tuple[int, float]:
    """The number of failures in a row, this one counted, and the seconds to wait.

    `failures`: in a row before this one; `uptime`: seconds that the process ran.
    """
    failures = 1 if uptime >= backoff.healthy_after else failures + 1
    # The exponent is bounded: a process that fails for weeks must not overflow the float.
    return failures, min(backoff.first * 2.0 ** min(failures - 1, 32), backoff.longest)


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPED = "stopped"


class Process(Protocol):
    """What is supervised.

    `after`: names of those that are ready before it starts and outlive it. `kept`: it is started again when
    it dies, but ending it is somebody else's business.
    """

    @property
    def name(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def log(self) -> Path: ...
    @property
    def after(self) -> Sequence[str]: ...
    @property
    def stop_timeout(self) -> float: ...
    @property
    def kept(self) -> bool: ...

    def start(self) -> None:
        """Raises `PlatformError` or `OSError` when that is not possible now."""

    def pid(self) -> int | None:
        """Its process id, None when it does not run."""

    def is_ready(self) -> bool:
        """Whether it does its work. Quick, and asked only while it runs."""

    def ending(self) -> str:
        """How it ended, after it did."""

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Record:
    """What the supervisor knows of a process. Times are the supervisor's clock's."""

    process: Process
    state: State = State.WAITING
    pid: int | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0
    start_at: float = 0.0
    log_start: int = 0
    slow_said: bool = False

    def as_row(self) -> dict[str, Any]:
        return {
            "name": self.process.name,
            "pid": self.pid,
            "state": self.state.value,
            "restarts": self.restarts,
            "what": self.process.what,
            "log": str(self.process.log),
        }


class Supervisor:
    """Keeps the processes running, one `tick` after the other. Not for several threads, apart from `hurry`.

    `changed` is called after anything in `rows` changed.
    """

    def __init__(
        self,
        processes: Iterable[Process],
        say: Say,
        *,
        changed: Callable[[], None] = lambda: None,
        backoff: Backoff = Backoff(),
        clock: Callable[[], float] = time.monotonic,
        slow_after: float = 60.0,
    ) -> None:
        self._records = {process.name: Record(process) for process in processes}
        self._say = say
        self._changed = changed
        self._backoff = backoff
        self._clock = clock
        self._slow_after = slow_after
        self._hurry = False
        self._next_rotation = 0.0

    @property
    def ready(self) -> bool:
        return all(record.state is State.READY for record in self._records.values())

    def state(self, name: str) -> State:
        return self._records[name].state

    def rows(self) -> list[dict[str, Any]]:
        """One row a process, in the order given."""
        return [record.as_row() for record in self._records.values()]

    def pids(self) -> list[int]:
        return [record.pid for record in self._records.values() if record.pid is not None]

    def tick(self) -> None:
        """Look at every process once and do what is due."""
        now = self._clock()
        for record in self._records.values():
            if record.state in (State.STARTING, State.READY):
                record.pid = record.process.pid()
                if record.pid is None:
                    self._ended(record, record.process.ending())
                elif record.state is State.STARTING:
                    self._see_if_ready(record)
            if record.state is State.WAITING and now >= record.start_at and self._may_start(record):
                self._start(record)
        if now >= self._next_rotation:
            self._next_rotation = now + 10
            for record in self._records.values():
                rotate(record.process.log)

    def restart(self, names: Iterable[str], why: str) -> None:
        """Stop these and let the next ticks start them again, at once."""
        chosen = {name: self._records[name] for name in names}
        self._say("supervisor", f"{why}: restarting {', '.join(chosen)}")
        self._stop(chosen)
        for record in chosen.values():
            record.state, record.start_at, record.restarts = State.WAITING, 0.0, record.restarts + 1
        self._changed()

    def stop(self) -> None:
        """End all: each is asked once nothing depends on it any more, and killed when it takes too long."""
        self._stop(self._records)

    def hurry(self) -> None:
        """Have `stop` kill instead of wait. From any thread or signal handler: it only sets a flag."""
        self._hurry = True

    def _may_start(self, record: Record) -> bool:
        return all(self._records[name].state is State.READY for name in record.process.after)

    def _start(self, record: Record) -> None:
        process = record.process
        record.started, record.slow_said = self._clock(), False
        rotate(process.log)
        record.log_start = size(process.log)
        try:
            process.start()
        except (PlatformError, OSError) as error:
            self._ended(record, str(error), with_log=False)
            return
        record.pid, record.state = process.pid(), State.STARTING
        self._say(process.name, f"process {record.pid}: {process.what}, log {shown(process.log)}")
        self._changed()

    def _see_if_ready(self, record: Record) -> None:
        took = self._clock() - record.started
        if record.process.is_ready():
            record.state = State.READY
            self._say(record.process.name, f"ready after {took:.1f} s")
            self._changed()
        elif took > self._slow_after and not record.slow_said:
            record.slow_said = True
            self._say(
                record.process.name, f"still not ready after {took:.0f} s, see {shown(record.process.log)}"
            )

    def _ended(self, record: Record, how: str, *, with_log: bool = True) -> None:
        uptime = self._clock() - record.started
        record.failures, delay = after_end(self._backoff, record.failures, uptime)
        record.restarts += 1
        record.pid, record.state, record.start_at = None, State.WAITING, self._clock() + delay
        text = f"{how}, {uptime:.0f} s after its start; starting it again in {delay:.0f} s"
        last = tail(record.process.log, record.log_start) if with_log else []
        if last:
            text += f". The end of {shown(record.process.log)}:" + "".join(f"\n    {line}" for line in last)
        self._say(record.process.name, text)
        self._changed()

    def _stop(self, records: Mapping[str, Record]) -> None:
        asked: dict[str, float] = {}
        killed: set[str] = set()
        records = {name: record for name, record in records.items() if not record.process.kept}
        left = {name for name, record in records.items() if record.process.pid() is not None}
        while left:
            for name in sorted(left):
                process = records[name].process
                if name not in asked:
                    if any(name in records[other].process.after for other in left):
                        continue
                    asked[name] = self._clock()
                    process.ask_to_stop()
                elif name not in killed and (
                    self._hurry or self._clock() - asked[name] > process.stop_timeout
                ):
                    killed.add(name)
                    self._say(name, f"did not end in {self._clock() - asked[name]:.1f} s, killing it")
                    process.kill()
            for name in [name for name in sorted(left) if records[name].process.pid() is None]:
                left.discard(name)
                records[name].pid, records[name].state = None, State.STOPPED
                self._say(name, "stopped")
                self._changed()
            if left:
                time.sleep(0.03)
        for record in records.values():
            record.pid, record.state = None, State.STOPPED
        self._changed()


@dataclass
class Child:
    """A process of our own. Command and environment are asked for at each start.

    It gets a session of its own, so that Ctrl-C in a terminal reaches only the supervisor, and writes to its
    log without passing through the supervisor, so that it survives the supervisor's death undisturbed.
    """

    name: str
    what: str
    command: Callable[[], Sequence[str]]
    environment: Callable[[], Mapping[str, str]]
    log: Path
    after: Sequence[str] = ()
    stop_timeout: float = 20.0
    ready: Callable[[float], bool] | None = None
    """Asked with the time of its start (epoch seconds). Unset: it is ready `settles_in` seconds after it."""
    settles_in: float = 1.5
    kept: bool = False
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started: float = 0.0

    def start(self) -> None:
        command, environment = list(self.command()), dict(self.environment())
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._started = time.time()

    def pid(self) -> int | None:
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def is_ready(self) -> bool:
        if self.ready is None:
            return time.time() - self._started >= self.settles_in
        return self.ready(self._started)

    def ending(self) -> str:
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "not started"
        return f"killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        # Its session's other processes too: they would only wait for it.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def leftovers(mark: str, known: Iterable[tuple[int, float]]) -> list[psutil.Process]:
    """What still runs of an earlier supervisor: processes that carry the mark, and those that it wrote down.

    `known`: process id and creation time, which together are never given to another process.
    """
    noted = dict(known)
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            written_down = process.pid in noted and is_same(process.pid, noted[process.pid])
            if written_down or process.environ().get(MARK) == mark:
                found.append(process)
    return found


def rotate(log: Path, limit: int = _LOG_LIMIT) -> None:
    """Keep a log that has grown beyond `limit` bytes as `<name>.1`, and empty it.

    Emptied and not renamed, because whoever writes to it has it open (for appending, so it goes on at the
    beginning). What is written between the two steps is lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > limit:
            shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)


def size(log: Path) -> int:
    """The log's size in bytes, 0 for one that is not there."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def tail(log: Path, start: int = 0, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of a log that are not empty, none from before the byte `start`."""
    end = size(log)
    try:
        with log.open("rb") as file:
            # A log that is shorter now has been rotated since.
            file.seek(max(start if start <= end else 0, end - 8_000))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def shown(path: Path) -> str:
    """The path as people like to read it: relative where it lies below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
