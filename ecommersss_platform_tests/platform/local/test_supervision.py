"""The supervisor's decisions, with processes and a clock that the tests control."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ecommersss_platform.alerts.processes import recent_restarts
from ecommersss_platform.local.supervision import State, Supervisor, after_end
from streaming.errors import PlatformError


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fake:
    """A process that does what the test says. All share `events`, which shows their order."""

    name: str
    events: list[str]
    log: Path
    after: Sequence[str] = ()
    kept: bool = False
    obeys: bool = True
    ready: bool = True
    cannot_start: str = ""
    what: str = "a fake"
    stop_timeout: float = 0.0
    alive: bool = False
    starts: int = field(default=0)

    def start(self) -> None:
        if self.cannot_start:
            raise PlatformError(self.cannot_start)
        self.starts += 1
        self.alive = True
        self.events.append(f"start {self.name}")

    def pid(self) -> int | None:
        return 100 + self.starts if self.alive else None

    def is_ready(self) -> bool:
        return self.ready

    def ending(self) -> str:
        return "killed by SIGKILL"

    def ask_to_stop(self) -> None:
        self.events.append(f"ask {self.name}")
        self.alive = not self.obeys

    def kill(self) -> None:
        self.events.append(f"kill {self.name}")
        self.alive = False


class Stage:
    """A supervisor over fakes, and everything that it said."""

    def __init__(self, tmp_path: Path, **processes: Sequence[str]) -> None:
        self.clock, self.events, self.said = Clock(), list[str](), list[str]()
        self.fakes = {
            name: Fake(name, self.events, tmp_path / f"{name}.log", after)
            for name, after in processes.items()
        }
        self.supervisor = Supervisor(
            self.fakes.values(),
            lambda name, text: self.said.append(f"{name}: {text}"),
            clock=self.clock,
        )

    def tick(self, seconds: float = 0.0, times: int = 1) -> None:
        self.clock.now += seconds
        for _ in range(times):
            self.supervisor.tick()


def test_backoff_doubles_up_to_a_minute_and_resets_after_a_healthy_run() -> None:
    failures, waits = 0, []
    for _ in range(9):
        failures, wait = after_end(failures, uptime=0.5)
        waits.append(wait)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert after_end(failures, uptime=59.9) == (10, 60.0)
    assert after_end(failures, uptime=60.0) == (1, 1.0)
    assert after_end(100_000, uptime=0.0) == (100_001, 60.0)


def test_start_waits_for_dependencies(tmp_path: Path) -> None:
    stage = Stage(tmp_path, database=(), consumer=("database",), producer=("consumer",))
    stage.fakes["database"].ready = False
    stage.tick(times=3)
    assert stage.events == ["start database"]
    assert not stage.supervisor.ready
    stage.fakes["database"].ready = True
    stage.tick(times=3)
    assert stage.events == ["start database", "start consumer", "start producer"]
    assert stage.supervisor.ready
    assert [(row["name"], row["state"], row["restarts"]) for row in stage.supervisor.rows()] == [
        ("database", "ready", 0),
        ("consumer", "ready", 0),
        ("producer", "ready", 0),
    ]


def test_dead_process_is_restarted_after_the_backoff(tmp_path: Path) -> None:
    stage = Stage(tmp_path, consumer=())
    fake = stage.fakes["consumer"]
    stage.tick(times=2)
    fake.log.write_text("all is well\nTraceback\nboom: 7\n")
    fake.alive = False
    stage.tick(seconds=12)
    assert stage.supervisor.rows()[0]["state"] == "waiting"
    assert stage.supervisor.rows()[0]["pid"] is None
    assert recent_restarts(stage.supervisor.rows()[0], datetime.now(UTC)) == 1
    [line] = [line for line in stage.said if "SIGKILL" in line]
    assert "killed by SIGKILL, 12 s after its start; restarting it in 1 s" in line
    assert line.endswith(":\n    all is well\n    Traceback\n    boom: 7")
    stage.tick(seconds=0.9)
    assert fake.starts == 1
    stage.tick(seconds=0.1)
    stage.tick()
    assert fake.starts == 2
    assert stage.supervisor.rows()[0]["restarts"] == 1
    assert stage.supervisor.ready


def test_a_crash_loop_has_its_reason_until_the_process_has_run_for_a_minute(tmp_path: Path) -> None:
    stage = Stage(tmp_path, consumer=())
    fake = stage.fakes["consumer"]
    stage.tick(times=2)
    assert stage.supervisor.rows()[0]["problem"] is None
    for _ in range(3):
        with fake.log.open("a") as log:
            log.write("all is well\nrules.yml:3: no such column\n")
        fake.alive = False
        stage.tick(seconds=2)
        stage.tick(seconds=60, times=2)
    reason = "killed by SIGKILL after 2 s, 3 times in a row: rules.yml:3: no such column"
    assert stage.supervisor.rows()[0]["problem"] == reason
    stage.tick(seconds=59)
    assert stage.supervisor.rows()[0]["problem"] == reason
    stage.tick(seconds=1)
    assert stage.supervisor.rows()[0]["problem"] is None


def test_restart_message_omits_the_log_of_earlier_runs(tmp_path: Path) -> None:
    (tmp_path / "consumer.log").write_text("an old error\n")
    stage = Stage(tmp_path, consumer=())
    stage.tick()
    stage.fakes["consumer"].alive = False
    stage.tick()
    assert "an old error" not in "".join(stage.said)


def test_backoff_grows_with_each_failure_in_a_row(tmp_path: Path) -> None:
    stage = Stage(tmp_path, consumer=())
    started = []
    for _ in range(400):
        before = stage.fakes["consumer"].starts
        stage.tick(seconds=0.25)
        if stage.fakes["consumer"].starts > before:
            started.append(stage.clock.now)
        stage.fakes["consumer"].alive = False
    # Each wait, and the quarter of a second until the death is seen.
    assert [b - a for a, b in itertools.pairwise(started)] == [
        1.25,
        2.25,
        4.25,
        8.25,
        16.25,
        32.25,
    ]


def test_failed_start_is_retried(tmp_path: Path) -> None:
    stage = Stage(tmp_path, webserver=())
    stage.fakes["webserver"].cannot_start = "no port is free"
    stage.tick()
    assert any("no port is free" in line and "restarting it in 1 s" in line for line in stage.said)
    stage.fakes["webserver"].cannot_start = ""
    stage.tick(seconds=1)
    assert stage.fakes["webserver"].starts == 1


def test_restart_waits_for_dependencies(tmp_path: Path) -> None:
    stage = Stage(tmp_path, database=(), consumer=("database",))
    stage.tick(times=3)
    for fake in stage.fakes.values():
        fake.alive = False
    stage.fakes["database"].cannot_start = "disk full"
    stage.tick()
    stage.tick(seconds=100)
    assert stage.events == ["start database", "start consumer"]
    stage.fakes["database"].cannot_start = ""
    stage.tick(seconds=100)
    stage.tick()
    assert stage.events[2:] == ["start database", "start consumer"]


def test_slow_start_is_reported_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, webserver=())
    stage.fakes["webserver"].ready = False
    stage.tick()
    for _ in range(5):
        stage.tick(seconds=30)
    assert sum("still not ready after 90 s" in line for line in stage.said) == 1
    assert stage.supervisor.state("webserver") is State.STARTING


def test_stop_goes_against_the_order_of_dependencies(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, database=(), consumer=("database",), webserver=("database",), producer=("consumer",)
    )
    stage.tick(times=4)
    stage.events.clear()
    stage.supervisor.stop()
    assert set(stage.events[:2]) == {"ask producer", "ask webserver"}
    assert stage.events[2:] == ["ask consumer", "ask database"]
    assert {row["state"] for row in stage.supervisor.rows()} == {"stopped"}
    assert {row["pid"] for row in stage.supervisor.rows()} == {None}


def test_stop_kills_a_stubborn_process_before_it_asks_the_dependency(tmp_path: Path) -> None:
    stage = Stage(tmp_path, database=(), consumer=("database",))
    stage.fakes["consumer"].obeys = False
    stage.fakes["consumer"].stop_timeout = -1.0  # the clock stands still
    stage.tick(times=3)
    stage.events.clear()
    stage.supervisor.stop()
    assert stage.events == ["ask consumer", "kill consumer", "ask database"]


def test_second_stop_request_kills_without_waiting(tmp_path: Path) -> None:
    stage = Stage(tmp_path, consumer=())
    stage.fakes["consumer"].obeys = False
    stage.fakes["consumer"].stop_timeout = 1e9
    stage.tick(times=2)
    stage.supervisor.request_stop()
    assert stage.supervisor.stopping
    stage.supervisor.request_stop()
    stage.supervisor.stop()
    assert stage.events[-1] == "kill consumer"


def test_stop_spares_kept_processes(tmp_path: Path) -> None:
    stage = Stage(tmp_path, database=(), consumer=("database",))
    stage.fakes["database"].kept = True
    stage.tick(times=3)
    stage.supervisor.stop()
    assert "ask database" not in stage.events
    assert stage.fakes["database"].alive


def test_restart_affects_only_named_processes_and_skips_the_backoff(tmp_path: Path) -> None:
    stage = Stage(tmp_path, database=(), consumer=("database",))
    stage.tick(times=3)
    stage.supervisor.restart(["consumer"], "PostgreSQL has another port now")
    stage.tick(times=2)
    assert stage.events == ["start database", "start consumer", "ask consumer", "start consumer"]
    assert stage.supervisor.ready
    assert stage.said[-1].startswith("consumer: ready")
