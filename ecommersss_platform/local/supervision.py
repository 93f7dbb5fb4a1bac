"""Keep processes running: start them in order, restart those that die, stop them in order.

`after_end` and `Supervisor.tick` decide. They know processes only through `Process` and take the time from a
clock, so that tests can drive both. `Child` is a real process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import psutil

from ecommersss_platform.environment import MARK
from ecommersss_platform.local.logfiles import quoted_tail, rotate, shown, size, tail
from ecommersss_platform.local.processes import is_alive
from streaming.errors import PlatformError

Say = Callable[[str, str], None]
"""Receives a message: the name of the process it is about, and the text."""

_FIRST_WAIT, _LONGEST_WAIT, _HEALTHY_AFTER = 1.0, 60.0, 60.0  # seconds
_REMEMBERED = 10


def after_end(failures: int, uptime: float) -> tuple[int, float]:
    """Return the number of failures in a row, including this one, and the seconds to wait before a restart.

    `failures`: in a row before this one; `uptime`: seconds that the process ran. Each failure doubles the
    wait, up to a minute; an uptime of a minute ends the row.
    """
    failures = 1 if uptime >= _HEALTHY_AFTER else failures + 1
    # Bound the exponent: a process that fails for weeks must not overflow the float.
    return failures, min(_FIRST_WAIT * 2.0 ** min(failures - 1, 32), _LONGEST_WAIT)


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    STOPPED = "stopped"


class Process(Protocol):
    """A process to supervise.

    `what`: its purpose. `after`: names of processes that must be ready before it starts and must outlive it.
    `kept`: restart it when it dies, but leave stopping it to others.
    """

    name: str
    what: str
    log: Path
    after: Sequence[str]
    stop_timeout: float
    kept: bool

    def start(self) -> None:
        """Start it. Raises `PlatformError` or `OSError` if that is not possible now."""

    def pid(self) -> int | None:
        """Return its process id, or None if it does not run."""

    def is_ready(self) -> bool:
        """Return quickly whether it does its work. Called only while it runs."""

    def ending(self) -> str:
        """Return how it ended. Called only after it did."""

    def ask_to_stop(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class Record:
    """What the supervisor knows about a process. Times are those of the supervisor's clock."""

    process: Process
    state: State = State.WAITING
    pid: int | None = None
    started: float = 0.0
    restarts: int = 0
    restarted_at: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """When it ended and was to be restarted lately, in ISO 8601: who watches judges how often that may be."""
    failures: int = 0
    start_at: float = 0.0
    log_start: int = 0
    slow_said: bool = False
    problem: str = ""
    """Why it ended last, until it has run for a minute."""

    def as_row(self) -> dict[str, Any]:
        return {
            "name": self.process.name,
            "pid": self.pid,
            "state": self.state.value,
            "restarts": self.restarts,
            "restarted_at": list(self.restarted_at),
            "what": self.process.what,
            "log": str(self.process.log),
            "problem": self.problem or None,
        }


class Supervisor:
    """Keeps processes running, one `tick` after the other, in one thread.

    `changed` is called after each change of `rows`. `slow_after`: seconds after which a start is called slow.
    """

    def __init__(
        self,
        processes: Iterable[Process],
        say: Say,
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        slow_after: float = 60.0,
    ) -> None:
        self._records = {process.name: Record(process) for process in processes}
        self._say = say
        self._changed = changed
        self._clock = clock
        self._slow_after = slow_after
        self._next_rotation = 0.0
        self._stop_requests = 0

    @property
    def ready(self) -> bool:
        return all(record.state is State.READY for record in self._records.values())

    @property
    def stopping(self) -> bool:
        return self._stop_requests > 0

    def state(self, name: str) -> State:
        return self._records[name].state

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each process, in the order given."""
        return [record.as_row() for record in self._records.values()]

    def request_stop(self) -> None:
        """Set `stopping`; the second request makes `stop` kill instead of wait. Safe in a signal handler."""
        self._stop_requests += 1

    def tick(self) -> None:
        """Look at every process once and do what is due."""
        now = self._clock()
        for record in self._records.values():
            if record.state in (State.STARTING, State.READY):
                record.pid = record.process.pid()
                if record.pid is None:
                    self._restart_later(record, record.process.ending())
                elif record.state is State.STARTING:
                    self._check_ready(record)
                elif record.problem and now - record.started >= _HEALTHY_AFTER:
                    record.problem = ""
                    self._changed()
            if record.state is State.WAITING and now >= record.start_at and self._may_start(record):
                self._start(record)
        if now >= self._next_rotation:
            self._next_rotation = now + 10
            for record in self._records.values():
                rotate(record.process.log)

    def restart(self, names: Iterable[str], why: str) -> None:
        """Stop these processes, and let the next ticks start them without a wait."""
        chosen = {name: self._records[name] for name in names}
        self._say("supervisor", f"{why}: restarting {', '.join(chosen)}")
        self._stop(chosen)
        for record in chosen.values():
            record.state, record.start_at, record.restarts = State.WAITING, 0.0, record.restarts + 1
        self._changed()

    def stop(self) -> None:
        """Stop all processes, each after those that need it; kill those that take too long."""
        self._stop(self._records)

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
            self._restart_later(record, str(error), with_log=False)
            return
        record.pid, record.state = process.pid(), State.STARTING
        self._say(process.name, f"process {record.pid}: {process.what}, log {shown(process.log)}")
        self._changed()

    def _check_ready(self, record: Record) -> None:
        name, took = record.process.name, self._clock() - record.started
        if record.process.is_ready():
            record.state = State.READY
            self._say(name, f"ready after {took:.1f} s")
            self._changed()
        elif took > self._slow_after and not record.slow_said:
            record.slow_said = True
            self._say(name, f"still not ready after {took:.0f} s, see {shown(record.process.log)}")

    def _restart_later(self, record: Record, how: str, *, with_log: bool = True) -> None:
        uptime = self._clock() - record.started
        record.failures, delay = after_end(record.failures, uptime)
        record.restarts += 1
        record.restarted_at.append(datetime.now(UTC).isoformat(timespec="seconds"))
        record.pid, record.state, record.start_at = None, State.WAITING, self._clock() + delay
        times = f", {record.failures} times in a row" if record.failures > 1 else ""
        last = tail(record.process.log, record.log_start, 1) if with_log else []
        record.problem = ": ".join([f"{how} after {uptime:.0f} s{times}", *last])
        end_of_log = quoted_tail(record.process.log, record.log_start) if with_log else ""
        dot = "." if end_of_log else ""
        self._say(
            record.process.name,
            f"{how}, {uptime:.0f} s after its start; restarting it in {delay:.0f} s{dot}{end_of_log}",
        )
        self._changed()

    def _stop(self, records: Mapping[str, Record]) -> None:
        left = {
            name: record
            for name, record in records.items()
            if not record.process.kept and record.process.pid() is not None
        }
        asked: dict[str, float] = {}
        killed: set[str] = set()
        while left:
            for name, record in list(left.items()):
                process = record.process
                if process.pid() is None:
                    del left[name]
                    record.pid, record.state = None, State.STOPPED
                    self._say(name, "stopped")
                    self._changed()
                elif name not in asked:
                    if not any(name in other.process.after for other in left.values()):
                        asked[name] = self._clock()
                        process.ask_to_stop()
                elif name not in killed:
                    waited = self._clock() - asked[name]
                    if waited > process.stop_timeout or self._stop_requests > 1:
                        killed.add(name)
                        self._say(name, f"did not end in {waited:.1f} s, killing it")
                        process.kill()
            if left:
                time.sleep(0.03)
        for record in records.values():
            if not record.process.kept:
                record.pid, record.state = None, State.STOPPED
        self._changed()


@dataclass
class Child:
    """A process of our own. Its command and environment are computed at each start.

    It has a session of its own, so that Ctrl-C in a terminal reaches only the supervisor. It writes its log
    itself, so that it survives the death of the supervisor undisturbed. It works in `directory`: Dagster lets
    the file `.env` of the current directory win over the environment.
    """

    name: str
    what: str
    command: Callable[[], Sequence[str]]
    environment: Callable[[], Mapping[str, str]]
    log: Path
    directory: Path
    after: Sequence[str] = ()
    stop_timeout: float = 20.0
    ready: Callable[[float], bool] | None = None
    """Called with the time of the start (epoch seconds). Unset: ready `settles_in` seconds after it."""
    settles_in: float = 1.5
    stops_with_descendants: bool = False
    """Ask all processes of its session to stop, and not it alone, which would wait for them."""
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
                cwd=self.directory,
                start_new_session=True,
            )
        self._started = time.time()

    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def is_ready(self) -> bool:
        if self.ready is None:
            return time.time() - self._started >= self.settles_in
        return self.ready(self._started)

    def ending(self) -> str:
        code = self._process.returncode if self._process else 0
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"

    def ask_to_stop(self) -> None:
        if self.stops_with_descendants:
            self._signal_session(signal.SIGTERM)
        elif self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        # And the other processes of its session, which would only wait for it.
        self._signal_session(signal.SIGKILL)

    def _signal_session(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def leftovers(mark: str) -> list[psutil.Process]:
    """Return the processes with this mark that still run: children of a supervisor, and what they started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.pid != os.getpid() and is_alive(process):
                found.append(process)
    return found
